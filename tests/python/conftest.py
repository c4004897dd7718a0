import os
import signal
import sys
from pathlib import Path

# Before torch is imported: its threads get in each other's way on a machine that also compiles.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it runs in the background with Ctrl-C ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[2]
for folder in ("models", "client/python", "client/python/examples"):
    sys.path.insert(0, str(ROOT / folder))


def pytest_configure(config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit:DeprecationWarning")  # TorchScript is what Abacus runs
