"""`nfk serve`: an embedder over HTTP.

    gate          who may ask, how much, how many at once; what is refused before anything is read or computed
    images        a request's body to pixels, without trust
    batches       a bounded queue before the embedder, emptied a block at a time
    neighbours    the nearest of a kept set of embeddings
    worker        a process of its own that does all this
    frames        how the two processes speak
    remote        the worker, seen from the process that answers
    application   the addresses and what they answer
    server        sockets, signals, the line that says it is ready

Built on FastAPI and uvicorn, which are here for Prefect and MLflow anyway. MLflow's own server of models (`mlflow
models serve`) has no authentication, no body limit and no bounded queue, takes no image files, and embeds each request
by itself.
"""
