"""Prints what mps.sh must know about a configuration before the controller runs, as KEY=VALUE lines.

Usage: config_info.py ROOT CONFIG [SECTION.KEY=VALUE ...]. `model` lines name the models of ROOT/models/store; values
that are missing become their defaults, wrong ones print nothing. Judging the file is the controller's part: nothing is
an error here.
"""

import re
import sys
import tomllib
from pathlib import Path

DEFAULTS = {
    ("server", "name"): "default",
    ("server", "drain_timeout_ms"): 10000,
    ("worker", "device"): "auto",
    ("worker", "gpu"): 0,
    ("worker", "mps"): True,
    ("worker", "load_timeout_s"): 300,
}


def parse_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def main() -> None:
    root, path = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return
    overrides = dict(setting.split("=", 1) for setting in sys.argv[3:] if "=" in setting)
    for (section, key), default in DEFAULTS.items():
        table = document.get(section)
        value = table.get(key, default) if isinstance(table, dict) else default
        if f"{section}.{key}" in overrides:
            value = parse_value(overrides[f"{section}.{key}"])
        if isinstance(default, int) and not isinstance(default, bool):
            value = int(value) if isinstance(value, int | float) and 0 <= value < 1e9 else default
        elif not isinstance(value, type(default)) or not re.fullmatch(r"[A-Za-z0-9_-]+", str(value)):
            continue
        print(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    services = document.get("service")
    store = (root / "models" / "store").resolve()
    for service in services if isinstance(services, list) else []:
        model = service.get("model") if isinstance(service, dict) else None
        if isinstance(model, str):
            target = (path.parent / model).resolve()
            if target.parent == store and target.suffix == ".toml":
                print(f"model={target.stem}")


if __name__ == "__main__":
    main()
