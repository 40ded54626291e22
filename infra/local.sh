#!/usr/bin/env bash
# The whole topology as plain processes on loopback: PostgreSQL, an S3 store, MLflow with passwords, Prefect, a worker.
#
#   infra/local.sh up [FOLDER]      start what is not up; FOLDER (.nfk/local) holds databases, logs, pids and `env`
#   infra/local.sh down [FOLDER]    end just what `up` started there; the data stay
#   source FOLDER/env               the addresses and passwords, for `nfk`, `dvc`, `mlflow` and `prefect`
#
# Needs the project's environment with the `infra` extra on PATH, and PostgreSQL's programs (Debian: postgresql).
# Passwords are drawn at the first `up` and are in FOLDER/env, which only its owner can read.
set -euo pipefail

action=${1:-}
folder=${2:-.nfk/local}
root=$(cd "$(dirname "$0")/.." && pwd)

die() { echo "infra/local.sh: $*" >&2; exit 1; }

free_port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

secret() { python -c 'import secrets; print(secrets.token_hex(16))'; }

since() { ps -o lstart= -p "$1" || true; }

# start NAME COMMAND...: a process group of its own, its output in NAME.log, its id in NAME.pid, its start in NAME.since;
# nothing where it is up
start() {
  local name=$1; shift
  if is_up "$name"; then return; fi
  local old; old=$(cat "$folder/$name.pid" 2>/dev/null || true)
  if [ -n "$old" ] && ! another "$name" "$old"; then
    kill -KILL -- "-$old" 2>/dev/null || true  # what a leader that died alone left behind still has its port
    for _ in $(seq 50); do  # what was just killed may not be gone yet, and PostgreSQL then takes it for a living one
      kill -0 -- "-$old" 2>/dev/null || break
      sleep 0.2
    done
  fi
  setsid "$@" >>"$folder/$name.log" 2>&1 </dev/null &
  echo $! >"$folder/$name.pid"
  since $! >"$folder/$name.since"
}

# another NAME PID: the process of that id is not the one started here; after a reboot the id may be anyone's
another() {
  local now; now=$(since "$2")
  [ -n "$now" ] && [ "$now" != "$(cat "$folder/$1.since" 2>/dev/null)" ]
}

is_up() {
  local pid
  pid=$(cat "$folder/$1.pid" 2>/dev/null) || return
  case $(ps -o stat= -p "$pid") in "" | Z*) return 1 ;; esac
  ! another "$1" "$pid"
}

# await NAME SECONDS COMMAND...: until the command succeeds; the log's end where NAME has ended or is late
await() {
  local name=$1 seconds=$2; shift 2
  local until=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$(cat "$folder/$name.pid")" 2>/dev/null || [ $SECONDS -ge $until ]; then
      tail -n 5 "$folder/$name.log" >&2
      die "$name did not start within $seconds s; its log is $folder/$name.log"
    fi
    sleep 0.3
  done
  echo "$name"
}

answers() { python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' "$1"; }

# PostgreSQL refuses to run as root: there it runs as its own user
as_postgres=()
if [ "$(id -u)" = 0 ]; then as_postgres=(setpriv --reuid postgres --regid postgres --clear-groups); fi

up() {
  local program
  for program in initdb postgres psql; do
    command -v $program >/dev/null || PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
    command -v $program >/dev/null || die "$program is not on PATH: install PostgreSQL"
  done
  for program in weed mlflow prefect dvc; do
    command -v $program >/dev/null || die "$program is not on PATH: pip install 'nfk[infra]'"
  done
  mkdir -p "$folder"; folder=$(cd "$folder" && pwd)
  if [ ! -e "$folder/env" ]; then
    local database s3 mlflow prefect
    database=$(free_port) s3=$(free_port) mlflow=$(free_port) prefect=$(free_port)
    (umask 077; cat >"$folder/env" <<ENV
export NFK_DATABASE_PORT=$database NFK_DATABASE_PASSWORD=$(secret)
export NFK_S3_PORT=$s3 AWS_ACCESS_KEY_ID=nfk AWS_SECRET_ACCESS_KEY=$(secret) AWS_DEFAULT_REGION=us-east-1
export MLFLOW_S3_ENDPOINT_URL=http://127.0.0.1:$s3 AWS_ENDPOINT_URL=http://127.0.0.1:$s3
export MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=$(secret)
export MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret) MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export NFK_PREFECT_PORT=$prefect PREFECT_API_URL=http://127.0.0.1:$prefect/api PREFECT_HOME=$folder/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false
export DO_NOT_TRACK=true
ENV
    )
  fi
  # shellcheck disable=SC1091
  source "$folder/env"
  database

  (umask 077
   cat >"$folder/s3.json" <<S3
{"identities": [{"name": "nfk", "actions": ["Admin"],
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}]}]}
S3
   cat >"$folder/mlflow-auth.ini" <<AUTH
[mlflow]
default_permission = READ
database_uri = postgresql://nfk:$NFK_DATABASE_PASSWORD@127.0.0.1:$NFK_DATABASE_PORT/mlflow_auth
admin_username = $MLFLOW_TRACKING_USERNAME
admin_password = $MLFLOW_TRACKING_PASSWORD
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# a password is hashed once a minute, not for each of the some hundred files of a model; its change is heeded at once
auth_cache_ttl_seconds = 60
AUTH
  )
  mkdir -p "$folder/s3"
  start s3 weed -logtostderr server -dir="$folder/s3" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port="$(free_port)" \
    -master.port.grpc="$(free_port)" -volume.port="$(free_port)" -volume.port.grpc="$(free_port)" \
    -filer -filer.port="$(free_port)" -filer.port.grpc="$(free_port)" -master.volumeSizeLimitMB=256 -volume.max=40 \
    -s3 -s3.port="$NFK_S3_PORT" -s3.port.iceberg=0 -s3.port.lance=0 -s3.port.grpc="$(free_port)" -s3.config="$folder/s3.json"
  # the address of the database holds its password: by the environment, since arguments are for all to read
  # leases on disk: kept in memory, a restart of the server ends the run that holds one within minutes
  PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem \
    PREFECT_API_DATABASE_CONNECTION_URL="postgresql+asyncpg://nfk:$NFK_DATABASE_PASSWORD@127.0.0.1:$NFK_DATABASE_PORT/prefect" \
    start prefect prefect server start --host 127.0.0.1 --port "$NFK_PREFECT_PORT"
  MLFLOW_BACKEND_STORE_URI="postgresql://nfk:$NFK_DATABASE_PASSWORD@127.0.0.1:$NFK_DATABASE_PORT/mlflow" \
    MLFLOW_AUTH_CONFIG_PATH="$folder/mlflow-auth.ini" \
    start mlflow mlflow server --app-name basic-auth --host 127.0.0.1 --port "${MLFLOW_TRACKING_URI##*:}" \
    --artifacts-destination s3://mlflow --workers 1
  await s3 60 bucket mlflow
  bucket dvc
  await prefect 180 answers "$PREFECT_API_URL/health"
  await mlflow 180 answers "$MLFLOW_TRACKING_URI/health"
  prefect work-pool inspect nfk-process >/dev/null 2>&1 || prefect work-pool create nfk-process --type process >/dev/null
  start worker nfk worker
  echo "worker"
  echo "all up; source $folder/env"
}

database() {
  local new=
  if [ ! -e "$folder/postgres/PG_VERSION" ]; then
    new=1
    mkdir -p "$folder/postgres"
    if [ "$(id -u)" = 0 ]; then
      chown postgres "$folder/postgres"
      "${as_postgres[@]}" test -w "$folder/postgres" || die "$folder must lie where the user postgres can reach it"
    fi
    local password; password=$(mktemp)  # readable by its owner only
    echo "$NFK_DATABASE_PASSWORD" >"$password"
    if [ "$(id -u)" = 0 ]; then chown postgres "$password"; fi
    "${as_postgres[@]}" initdb --pgdata "$folder/postgres" --username nfk --auth scram-sha-256 --data-checksums \
      --pwfile "$password" >>"$folder/postgres.log" 2>&1 || { rm "$password"; die "initdb failed: $folder/postgres.log"; }
    rm "$password"
  fi
  start postgres "${as_postgres[@]}" postgres -D "$folder/postgres" -h 127.0.0.1 -p "$NFK_DATABASE_PORT" -k "" -c fsync=on
  export PGPASSWORD=$NFK_DATABASE_PASSWORD
  local psql=(psql --host 127.0.0.1 --port "$NFK_DATABASE_PORT" --username nfk --dbname postgres --quiet)
  await postgres 60 "${psql[@]}" --command "select 1"
  if [ -n "$new" ]; then
    for name in prefect mlflow mlflow_auth; do "${psql[@]}" --command "create database $name"; done
  fi
}

bucket() {
  python - "$1" <<'PYTHON'
import sys

import boto3

s3 = boto3.client("s3")
if sys.argv[1] not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
    s3.create_bucket(Bucket=sys.argv[1])
PYTHON
}

down() {
  [ -d "$folder" ] || die "$folder: nothing was started there"
  folder=$(cd "$folder" && pwd)
  local name pid signal
  for name in worker mlflow prefect s3 postgres; do
    [ -e "$folder/$name.pid" ] || continue
    pid=$(cat "$folder/$name.pid")
    if another "$name" "$pid"; then rm "$folder/$name.pid"; continue; fi
    for signal in TERM TERM KILL; do  # Prefect's worker outlives the first where its server ends at the same time
      kill -$signal -- "-$pid" 2>/dev/null || break
      for _ in $(seq 30); do kill -0 -- "-$pid" 2>/dev/null || break; sleep 0.2; done
    done
    rm -f "$folder/$name.pid" "$folder/$name.since"
  done
  echo "all down; the data are in $folder"
}

case $action in
  up | down) cd "$root"; "$action" ;;
  *) die "give up or down" ;;
esac
