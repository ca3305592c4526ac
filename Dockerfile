# The notebooks in JupyterLab, on a processor (no GPU):
#     docker build -t dgl .
#     docker run --rm -p 127.0.0.1:8888:8888 dgl                       # prints the address to open
#     docker run --rm -v "$PWD/results:/dgl/results" dgl make study    # the study, its results outside
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /dgl
COPY . .
# torch and torchvision as their CPU wheels, both from PyTorch's own index: a tenth of the size. The versions stay pinned.
RUN PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make env
EXPOSE 8888
CMD [".venv/bin/python", "-m", "jupyterlab", "--ip=0.0.0.0", "--allow-root", "--no-browser", "notebooks/00_start_here.ipynb"]
