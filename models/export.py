#!/usr/bin/env python3
"""Exports models for Abacus: NAME.pt (TorchScript) and NAME.toml (what models/model_spec.h reads). See README.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from abacus_export.cli import main

if __name__ == "__main__":
    sys.exit(main())
