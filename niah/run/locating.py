"""Finding a batch that was being sent when the line went dead: did it come to be?"""

from datetime import timedelta

from niah.backends.batch_format import Status
from niah.errors import ProviderError
from niah.run.collecting import Work, gone
from niah.run.journal import Batch, Journal

_CLOCKS_DIFFER_SECONDS = timedelta(days=1).total_seconds()
_MOST_PAGES = 100


async def search(work: Work, journal: Journal, batch: Batch, foreign: set[str]) -> tuple[str, bool]:
    """(The provider's name of the batch with our label, or ""; whether a batch that is still at work may be it).

    Where batches bear no label, ended ones of the right size are told apart by the ids in their results; `foreign` remembers them.
    """
    cursor, perhaps = "", False
    for _ in range(_MOST_PAGES):
        listed, cursor = work.format.page(await work.channel.sender.get(work.format.listing(cursor)))
        for status in listed:
            if status.id in journal.names | foreign:
                continue
            if work.format.labelled:
                if status.label == batch.label:
                    return status.id, False
            elif _may_be(batch, status):
                if status.state == "working":
                    perhaps = True
                elif await _is(work, batch, status):
                    return status.id, False
                else:
                    foreign.add(status.id)
        if not cursor:
            break
    return "", perhaps


def _may_be(batch: Batch, status: Status) -> bool:
    old = status.created is not None and status.created < batch.at - _CLOCKS_DIFFER_SECONDS
    return not old and status.requests == len(batch.keys)


async def _is(work: Work, batch: Batch, status: Status) -> bool:
    """Whether the results of an ended batch bear our label."""
    with work.scratch() as file:
        try:
            await work.channel.sender.download(status.files[0], file)
        except ProviderError as error:
            if not gone(error):
                raise
            return False
        file.seek(0)
        return f'-{batch.label}"'.encode() in file.readline()
