"""lm-eval's own client against a server: requests a second and CPU ms a request. Run by client.py in lm-eval's environment.

    .venv-lmeval/bin/python benchmarks/lm_eval_client.py URL CHARACTERS REQUESTS

What is measured is `generate_until` of its model local-chat-completions at concurrency 64, as its tasks call it: answers in a list.
"""

import json
import sys
import time

from lm_eval.api.instance import Instance
from lm_eval.models.api_models import JsonChatStr
from lm_eval.models.openai_completions import LocalChatCompletion


def main() -> None:
    url, characters, requests = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = LocalChatCompletion(model="x", base_url=f"{url}/chat/completions", num_concurrent=64)
    text = ("word " * (characters // 5 + 1))[:characters]
    asked = [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(JsonChatStr(json.dumps([{"role": "user", "content": f"{number} {text}"}])), {"until": ["\n"], "max_gen_toks": 100}),
            idx=number,
        )
        for number in range(requests)
    ]
    wall, cpu = time.perf_counter(), time.process_time()
    answers = model.generate_until(asked)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert len(answers) == requests, len(answers)
    assert all(answers), "an answer is empty"
    print(requests / wall, 1000 * cpu / requests)


if __name__ == "__main__":
    main()
