"""The pipeline's stages: read, call, write, tell. `nfk STAGE [FAMILY]` and `dvc.yaml` run them.

A stage only carries: what it computes lives in `nfk.fisher`, `nfk.models`, `nfk.evaluation` and `nfk.data`.
"""
