"""Made-up result files of every kind, in the layout `memsparse eval` writes."""

NASTY = """<script>alert("x")</script> 'quoted' & --> | `code` *b* [l](javascript:alert(1)) </script>"""

ODD = (None, 3, "x", [], {}, [None, 3, "x", {}], {"memsparse": None}, {"memsparse": {"f1": 3}}, float("nan"))
"""What a field of another's file may hold instead."""


def estimate(value, *, spread=0.03, n=20):
    if value is None:
        return {"value": None, "low": None, "high": None, "n": 0}
    return {"value": value, "low": max(0.0, value - spread), "high": value + spread, "n": n}


def head(kind, **fields):
    return {
        "kind": kind,
        "command": f"memsparse eval {kind} --corpus c.jsonl --json out.json",
        "commit": "0123abc",
        "device": "a processor, 2 threads",
        "versions": {"memsparse": "0.1.0", "torch": "2.13.0"},
        "seed": 7,
        "settings": {"limit": None, "corpus": [{"file": "c.jsonl"}]},
        "partial": False,
        "corpus": {"documents": 1234, "tokens": 56789, "files": ["c.jsonl"]},
        **fields,
    }


def ranking_record(number, system="memsparse", *, ranks=(1, None), question=None, **fields):
    documents = [f"d{number}-{place}" for place in range(16)]
    positives = [documents[ranks[0] - 1] if ranks[0] else "elsewhere", "far"] if ranks else []
    layers = [
        {
            "layer": layer,
            "documents": documents[::-1] if layer == 5 else documents,
            "scores": [round(0.9 - 0.01 * place, 4) for place in range(16)],
            "chunks": [place + 40 for place in range(3)],
            "ranks": list(ranks),
        }
        for layer in (3, 5)
    ]
    return {
        "system": system,
        "id": f"q{number}",
        "question": question or f"Who is number {number}?",
        "positive_ids": positives,
        "documents": documents,
        "scores": [round(0.8 - 0.02 * place, 4) for place in range(16)],
        "ranks": list(ranks),
        "seconds": 0.0123,
        **({"layers": layers} if system == "memsparse" else {}),
        **fields,
    }


def retrieval(**fields):
    records = [
        ranking_record(0, question=NASTY),
        ranking_record(1, ranks=(4, 99)),
        ranking_record(2, ranks=()),
    ]
    records += [ranking_record(number, "bm25", ranks=(2, 3)) for number in range(3)]
    records.append(
        {"system": "bm25", "id": "q9", "question": "Failing?", "positive_ids": [], "error": "too <long>"}
    )
    metrics = {
        "recall@1": estimate(0.745),
        "recall@16": estimate(0.9),
        "seconds_per_question": estimate(0.0123),
    }
    return head(
        "retrieval",
        systems={
            "memsparse": {**metrics, "new_metric": estimate(0.5, n=3)},
            "bm25": {"recall@1": estimate(0.7), "recall@16": estimate(None)},
            NASTY: {},
        },
        layers={"memsparse": {"3": {"recall@1": estimate(0.6)}, "5": {"recall@1": estimate(0.2)}}},
        missing={"bm25": {"n": 1, "first": "too <long>"}},
        records=records,
        **fields,
    )


def answer_record(number, system="memsparse", **fields):
    routing = [
        {"layer": layer, "documents": ["gold", "other"], "scores": [0.91234, 0.5], "chunks": [4, 0]}
        for layer in (3, 5)
    ]
    rounds = [
        {
            "numbers": [3],
            "documents": ["gold"],
            "text": "[3]<|object_ref_end|>",
            "seconds": 0.02,
            "routing": routing,
        },
        {"numbers": [], "documents": [], "text": "<End-of-Retrieve>", "seconds": 0.01, "routing": []},
    ]
    return {
        "system": system,
        "id": f"q{number}",
        "question": f"What is number {number}?",
        "answers": ["Apple Moth", "Moth"],
        "positive_ids": ["gold"],
        "answer": "Apple Moth",
        "found": True,
        "cited": ["gold"],
        "exact_match": 1.0,
        "f1": 1.0,
        "contains": 1.0,
        "citation_precision": 1.0,
        "citation_recall": 1.0,
        "citation_f1": 1.0,
        "tokens": 160,
        "seconds": 1.5,
        "rounds": rounds,
        **fields,
    }


def qa(**fields):
    wrong = {"exact_match": 0.0, "contains": 0.0, "f1": 0.0}
    judge = {"score": None, "match": True, "model": "m", "prompt_sha256": "00", "replies": ["it is <fine>"]}
    records = [
        answer_record(0),
        answer_record(1, **wrong, answer="Plum", judge={**judge, "score": 2, "match": False}),
        answer_record(2, **wrong, answer="No answer found.", found=False, cited=[], judge=judge),
        answer_record(3, **wrong, positive_ids=[], answers=[], found=False, cited=[]),
        answer_record(4, **wrong, positive_ids=[], answers=[], answer="Plum"),
        answer_record(5, "oracle", exact_match=0.0, answer="the Apple Moth there", f1=0.6, rounds=[]),
        {"system": "oracle", "id": "q6"},
    ]
    systems = {
        "memsparse": {
            "exact_match": estimate(0.2, n=3),
            "f1": estimate(0.4, n=3),
            "refused": estimate(0.5, n=2),
            "judge": estimate(2.0, n=1),
            "tokens_per_question": estimate(160.0, n=5),
        },
        "oracle": {"f1": estimate(0.6, n=1), "exact_match": estimate(None)},
    }
    return head("qa", systems=systems, judge={"n": 1, "kappa": None}, records=records, **fields)


def needles(**fields):
    tasks, lengths = ("niah_single_1", "niah_multivalue"), (16384, 131072)
    records = [
        {
            "system": "memsparse",
            "id": f"{task}-{tokens}-{depth}",
            "task": task,
            "tokens": tokens,
            "depth": depth,
            "question": "What is the number?",
            "answers": ["123", "456"],
            "answer": "123",
            "found": True,
            "cited": [],
            "positive_ids": ["needle"],
            "score": 0.5 if task == "niah_multivalue" else 1.0,
            "seconds": 0.1,
            "rounds": [],
        }
        for task in tasks
        for tokens in lengths
        for depth in (0.0, 0.5, 1.0)
    ]
    systems = {
        "memsparse": {
            f"{task}@{tokens}": estimate(0.75 if place == 0 else 0.625, n=3)
            for task in (*tasks, "needles")
            for place, tokens in enumerate(lengths)
        }
    }
    systems["bm25"] = {"niah_single_1@16384": estimate(1.0, n=3)}
    return head("needles", systems=systems, records=records, **fields)


def scaling(**fields):
    rungs = []
    for place, asked in enumerate((16384, 65536, 1048576)):
        systems = {
            "memsparse": {
                "recall@1": estimate(0.9 - 0.1 * place),
                "f1": estimate(0.5),
                "search_seconds": estimate(0.004 * (place + 1), spread=0.001),
            },
            "bm25": {"recall@1": estimate(0.85 - 0.05 * place), "f1": estimate(None)},
        }
        if place == 2:
            del systems["bm25"]
        rungs.append(
            {"rung": asked, "tokens": asked + 12, "documents": asked // 100, "systems": systems, "layers": {}}
        )
    lost = {"value": 0.2222, "low": 0.1, "high": None, "n": 20}
    records = [
        ranking_record(number, rung=rung["rung"], kind="rank") for rung in rungs for number in range(4)
    ] + [answer_record(number, rung=16384, kind="answer") for number in range(4)]
    return head(
        "scaling",
        systems=rungs[-1]["systems"],
        rungs=rungs,
        layers={"memsparse": {"3": {"recall@1": estimate(0.7)}}},
        degradation={"memsparse": {"recall@1": lost}},
        degradation_between={"memsparse": [16_384, 1_048_576]},
        records=records,
        **fields,
    )
