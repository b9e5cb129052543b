"""Creates a RunPod template from deploy/runpod, or updates the one of that name.

    python3 scripts/runpod_template.py stock-image
    python3 scripts/runpod_template.py pod        --image YOU/vllm-sidecar:0.1
    python3 scripts/runpod_template.py serverless --image YOU/vllm-sidecar:0.1 --apply

`stock-image` is a pod of vLLM's own image, which takes the sidecar in as it starts.

Without `--apply` it only prints the template. With it, the key is read from RUNPOD_API_KEY, which
must be allowed to read and write templates. An update starts a rolling release of the endpoints
that use the template; variables that the file does not name, such as API_KEYS, stay as they are.
API: https://rest.runpod.io/v1/docs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "runpod"
API = "https://rest.runpod.io/v1"
TIMEOUT_SECONDS = 30
# A template keeps these: RunPod's TemplateUpdateInput does not have them.
ONLY_AT_CREATION = ("category", "isServerless")

Template = dict[str, Any]


def template(kind: str, image: str | None, name: str | None) -> Template:
    content: Template = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    if image is not None:
        content["imageName"] = image
    elif "imageName" not in content:
        sys.exit(f"runpod_template: {kind}: --image YOU/vllm-sidecar:0.1 is missing")
    content["readme"] = (FOLDER / "README.md").read_text(encoding="utf-8")
    return content | ({"name": name} if name else {})


def call(api: str, key: str, method: str, path: str, body: Template | None = None) -> Any:
    """One request to the API; ends the program with what it says where it refuses."""
    request = urllib.request.Request(
        api + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        # `--api` was checked to be http or https.
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # nosec B310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read(2000).decode(errors="replace").replace(key, "***").strip()
        sys.exit(f"runpod_template: {method} {path}: {error.code} {said}")
    except (OSError, ValueError) as error:
        sys.exit(f"runpod_template: {method} {path}: {error}")


def apply(api: str, key: str, wanted: Template) -> str:
    """Create or update; what was done, in words."""
    known = call(api, key, "GET", "/templates?includeEndpointBoundTemplates=true")
    same_name = [each for each in known if each["name"] == wanted["name"]]
    if not same_name:
        made = call(api, key, "POST", "/templates", wanted)
        return f"created {wanted['name']} ({made['id']})"
    there = same_name[0]
    if there.get("isServerless", False) != wanted["isServerless"]:
        kind = "pods" if wanted["isServerless"] else "serverless endpoints"
        sys.exit(f"runpod_template: {wanted['name']} is a template for {kind}; use another --name")
    changes = {field: value for field, value in wanted.items() if field not in ONLY_AT_CREATION}
    # Somebody's API_KEYS are among them, mostly: without those the address would be open to all.
    kept = {
        name: text for name, text in (there.get("env") or {}).items() if name not in wanted["env"]
    }
    changes["env"] = kept | wanted["env"]
    call(api, key, "PATCH", f"/templates/{there['id']}", changes)
    also = f"; kept {', '.join(sorted(kept))}" if kept else ""
    return f"updated {wanted['name']} ({there['id']}){also}"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runpod_template", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=("stock-image", "pod", "serverless"))
    parser.add_argument("--image", help="what scripts/build-and-push.sh has pushed")
    parser.add_argument("--name", help="instead of the one in the file")
    parser.add_argument("--apply", action="store_true", help="do it, with RUNPOD_API_KEY")
    parser.add_argument("--api", default=API, help=f"instead of {API}")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    wanted = template(given.kind, given.image, given.name)
    if not given.apply:
        print(json.dumps(wanted, indent=2, ensure_ascii=False))
        print("dry run: nothing was sent; --apply does it", file=sys.stderr)
        return 0
    key = os.environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        sys.exit("runpod_template: set RUNPOD_API_KEY")
    url = urlsplit(given.api)
    if url.scheme != "https" and url.hostname != "127.0.0.1":
        sys.exit("runpod_template: the key is sent over https only")
    print(apply(given.api.rstrip("/"), key, wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
