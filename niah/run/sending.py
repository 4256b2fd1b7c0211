"""Sending one batch: its content, and what is known when no answer comes."""

from typing import BinaryIO

from niah.backends.batch_format import checked
from niah.backends.batching import order
from niah.errors import BadResponse, ProviderError, RetryableError
from niah.run.collecting import Work
from niah.run.journal import Batch


class Unheard(Exception):
    """A batch may have come to be, although its name did not arrive."""

    def __init__(self, error: ProviderError):
        super().__init__(str(error))
        self.error = error


async def upload(work: Work, file: BinaryIO) -> str:
    """The provider's name of an uploaded file. Nothing is run or paid by this."""
    told = await work.channel.sender.post_file("/files", file, media="application/jsonl", form={"purpose": "batch"})
    return checked(told.get("id") if isinstance(told, dict) else None)


async def create(work: Work, batch: Batch, file: BinaryIO, source: str, url: str) -> str:
    """The name of a new batch, made from the uploaded file `source` or else from the content itself.

    Raises Unheard where it may have come to be, other errors where it has not.
    """
    path = work.format.create(work.channel.model)
    try:
        if source:
            told, _ = await work.channel.sender.post(path, order(source, url, batch.label))
        else:
            told = await work.channel.sender.post_file(path, file, media="application/json")
        return work.format.status(told).id
    except (RetryableError, BadResponse) as error:
        # A server that could not be reached, or that says "not now", has taken nothing. Of all else nobody knows.
        if isinstance(error, RetryableError) and error.kind in ("rate_limit", "connection") and not error.billed:
            raise
        raise Unheard(error) from None
