import pytest
import typer
from typer.testing import CliRunner, Result

from memsparse.cli import app
from memsparse.usage import as_typed, usage_line


class Parameter:
    def __init__(self, name: str, *opts: str, kind: str = "option") -> None:
        self.name, self.opts, self.param_type_name = name, list(opts), kind


PARAMETERS = (
    Parameter("device_bytes", "--device-bytes"),
    Parameter("out", "--json"),
    Parameter("source", "source", kind="argument"),
)


def test_an_option_stands_for_the_setting_a_message_begins_with() -> None:
    for message, words, told in (
        (
            "device_bytes is 12; allow more",
            ["ask", "--device-bytes", "12"],
            "--device-bytes is 12; allow more",
        ),
        ("device bytes is 12", ["--device-bytes=12"], "--device-bytes is 12"),
        ("out is '.'", ["--json", "."], "--json is '.'"),
    ):
        assert as_typed(message, PARAMETERS, words) == told


def test_other_messages_stay() -> None:
    for message in (
        "source is 'x'",
        "top_k is 0",
        "no bank at out is there",
        "--device-bytes is 'x'",
        "/tmp/out is a file",
        "",
    ):
        assert as_typed(message, PARAMETERS, ["--device-bytes", "12", "--json", "source"]) == message
    assert (
        as_typed("device_bytes is 12", PARAMETERS, ["ask"]) == "device_bytes is 12"
    )  # a setting from elsewhere


def test_the_value_is_the_one_typed_last() -> None:
    error = typer.BadParameter("Input should be a valid integer, unable to parse string as an integer")
    error.param = Parameter("limit", "--limit", "-n")  # type: ignore[assignment]
    for words in (
        ["list", "--limit", "x"],
        ["list", "--limit=x"],
        ["--limit", "3", "-n", "x"],
        ["-n", "x", "--limit"],
    ):
        line = usage_line(error, "memsparse bank list", words)
        assert line.endswith("is 'x'; it must be a whole number")


def test_both_of_the_parsers_wordings_are_understood() -> None:
    for said, told in (
        ("'x' is not a valid integer.", "it must be a whole number"),
        ("'x' is not a valid integer range.", "it must be a whole number"),
        ("x is not in the range x>=1.", "it must be in the range x>=1"),
        ("Input should be greater than or equal to 1", "it must be at least 1"),
        ("'x' is not one of 'a', 'b'.", "use one of a, b"),
    ):
        error = typer.BadParameter(said)
        error.param = Parameter("limit", "--limit")  # type: ignore[assignment]
        assert usage_line(error, "memsparse", ["--limit", "x"]) == f"--limit is 'x'; {told}"


def test_an_error_that_does_not_say_where_it_happened_names_the_command_called() -> None:
    error = typer.BadParameter.__mro__[1]("Something is off.")
    assert usage_line(error, "memsparse ask", []) == "something is off; see 'memsparse ask --help'"


# --- the command line itself ------------------------------------------------------------------------------


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="memsparse")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ask"], "QUESTION is missing; 'memsparse ask --help'"),
        (["bank", "add"], "DIR is missing; 'memsparse bank add --help'"),
        (["eval", "qa", "--queries", "q"], "--corpus is missing; 'memsparse eval qa --help'"),
        (["ask", "q", "--nonsense"], "--nonsense; see 'memsparse ask --help'"),
        (["--nonsense"], "--nonsense; see 'memsparse --help'"),
        (["bench", "--nonsense"], "--nonsense; see 'memsparse bench --help'"),
        (["ask", "q", "--dcos", "x"], "--dcos; did you mean --docs?"),
        (["nonsense"], "'nonsense'; see 'memsparse --help'"),
        (["bank", "nonsense"], "'nonsense'; see 'memsparse bank --help'"),
        (["ask", "where", "is", "it"], "'is it' is more than 'memsparse ask' takes; put quotes around"),
        (["ask", "q", "--docs", ".", "away.txt"], "'away.txt' is more than"),
        (["ask", "q", "--docs", ".", "away.txt"], "check that paths exist"),
        (["eval", "needles", "--lengths", "lots"], "--lengths: 'lots' is no number of tokens"),
        (["ask", "q", "--docs"], "'--docs' requires an argument; see 'memsparse ask --help'"),
        (["ask", "q", "--as-of", "x"], "--as-of is 'x'; it must be a whole number"),
        (["ask", "q", "--as-of=-3"], "--as-of is '-3'; "),
        (["ask", "q", "--id-decoding", "guess"], "--id-decoding is 'guess'; use one of router, generate"),
        (["bench", "encode", "--batch-tokens", "0"], "--batch-tokens is '0'; "),
    ],
)
def test_usage_errors_are_one_line(words: list[str], told: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert told in result.stderr


@pytest.mark.parametrize("words", [[], ["bank"], ["eval"]])
def test_without_a_command_the_help_is_shown(words: list[str]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Commands:" in result.stderr


def test_help_lists_commands_with_whole_sentences_and_a_first_step() -> None:
    told = " ".join(run("--help").stdout.split())
    assert "Answer one question after another, each on its own; /quit or Ctrl-D ends. convert" in told
    assert "memsparse ask --docs" in told
    for words in (
        ["--help"],
        ["bank", "--help"],
        ["bench", "--help"],
        ["eval", "--help"],
        ["train", "--help"],
    ):
        listed = run(*words).stdout.partition("Commands:")[2]
        assert listed
        assert "..." not in listed


def test_debug_reaches_every_group() -> None:
    result = run("bench", "routing", "--keys", "int3", "--debug")
    assert "Traceback" in result.stderr
