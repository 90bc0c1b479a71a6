"""A Milvus Lite server as a process."""

import socket
import subprocess
import sys
import time


def start_milvus(folder, port):
    """Starts a Milvus Lite server and waits until it answers; returns its process."""
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError("milvus_lite server did not start")
