"""Stands in for a Qdrant server: speaks its REST, checks what it is sent against the client's own
schema, and answers from the client's store in memory. It is no Qdrant: how a server keeps, spreads
and searches is not tested by it, only what is said to one."""

import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from qdrant_client import QdrantClient
from qdrant_client import models as m


class Server(ThreadingHTTPServer):
    """address: to give to the client's owner; requests: verb and path of every request; indexed: labels
    that filters are prepared for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.lock = QdrantClient(":memory:"), threading.Lock()
        self.requests, self.indexed, self.keys = [], set(), set()
        self.address = f"qdrant://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def end(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        content = json.loads(self.rfile.read(length) or "{}")
        _, collections, name, *rest = urlsplit(self.path).path.split("/")
        assert collections == "collections"
        verb = " ".join([self.command, *rest])
        self.server.requests.append(verb)
        self.server.keys.add(self.headers.get("api-key"))
        try:
            with self.server.lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result, status = self.answer(verb, name, content), 200
        except (ValueError, KeyError) as error:
            result, status = str(error), 400
        body = (
            {"result": result, "status": "ok", "time": 0.0}
            if status == 200
            else {"status": {"error": result}}
        )
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = handle_any

    def log_message(self, *_):
        pass

    def answer(self, verb: str, name: str, content: dict):
        store, done = self.server.store, {"operation_id": 0, "status": "completed"}
        if verb == "GET exists":
            return {"exists": store.collection_exists(name)}
        if verb == "PUT":
            asked = m.CreateCollection(**content)
            return store.create_collection(name, vectors_config=asked.vectors)
        if verb == "PUT index":
            self.server.indexed.add(m.CreateFieldIndex(**content).field_name)
            return done
        if verb == "PUT points":
            store.upsert(name, m.PointsList(**content).points)
            return done
        if verb == "POST points":
            asked = m.PointRequest(**content)
            found = store.retrieve(
                name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector
            )
            return [plain(record) for record in found]
        if verb == "POST points scroll":
            asked = m.ScrollRequest(**content)
            options = dict(limit=asked.limit, offset=asked.offset, with_payload=asked.with_payload)
            found, after = store.scroll(name, asked.filter, **options)
            return {"points": [plain(record) for record in found], "next_page_offset": after}
        if verb == "POST points count":
            asked = m.CountRequest(**content)
            return {"count": store.count(name, asked.filter, exact=asked.exact).count}
        if verb == "POST points delete":
            store.delete(name, m.PointIdsList(**content))
            return done
        if verb == "POST points query batch":
            asked = m.QueryRequestBatch(**content)
            return [plain(answer) for answer in store.query_batch_points(name, asked.searches)]
        if verb == "POST facet":
            asked = m.FacetRequest(**content)
            if asked.key not in self.server.indexed:
                raise ValueError(f"no index of {asked.key}, which a server needs to count values")
            return plain(store.facet(name, asked.key, limit=asked.limit))
        raise KeyError(verb)


def plain(model) -> dict:
    return json.loads(model.model_dump_json())
