"""`transformers serve` over one checkpoint: a real server that is not ours, on a free port of the loopback."""

from pathlib import Path

from tests.peers.process import Peer, free_port


class Server(Peer):
    """Serves the folder `checkpoint` under the folder's name."""

    def __init__(self, python: Path, checkpoint: Path, log: Path):
        self.model = checkpoint.name
        port = free_port()
        command = [python, "-m", "transformers.cli.transformers", "serve", self.model, "--device", "cpu"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        super().__init__(command, port=port, ready="/health", log=log, folder=checkpoint.parent)

    def statuses(self) -> list[int]:
        """The statuses of all chat completions answered so far."""
        return [status for path, status in self.asked() if path == "/v1/chat/completions"]
