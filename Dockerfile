# `amodal serve` with torch for a CPU, as a user without rights:
#
#     docker build -t amodal-serve .
#     docker run --rm -p 127.0.0.1:8000:8000 -e AMODAL_TOKEN -v "$PWD/runs/first:/run_dir:ro" amodal-serve
#
# The run is mounted, read-only, and is not part of the image. In the container the server must listen on all
# addresses, so it wants a token: AMODAL_TOKEN, or --token-file at the end of the command.
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY amodal ./amodal
RUN uv venv /opt/amodal \
    && uv pip install --python /opt/amodal --no-cache --torch-backend cpu --compile-bytecode '.[serve,search,language]'

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 amodal
COPY --from=build /opt/amodal /opt/amodal
ENV PATH=/opt/amodal/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AMODAL_CACHE=/home/amodal/cache
USER 10001
WORKDIR /home/amodal
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["amodal", "serve", "/run_dir", "--host", "0.0.0.0", "--port", "8000"]
