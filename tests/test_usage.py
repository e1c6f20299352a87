import typer

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
    assert as_typed("device_bytes is 12; allow more", PARAMETERS) == "--device-bytes is 12; allow more"
    assert as_typed("device bytes is 12", PARAMETERS) == "--device-bytes is 12"
    assert as_typed("out is '.'", PARAMETERS) == "--json is '.'"


def test_other_messages_stay() -> None:
    for message in (
        "source is 'x'",
        "top_k is 0",
        "no bank at out is there",
        "--device-bytes is 'x'",
        "/tmp/out is a file",
        "",
    ):
        assert as_typed(message, PARAMETERS) == message


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
        ("'x' is not a valid integer.", "it is not a whole number"),
        ("Input should be greater than or equal to 1", "it must be at least 1"),
        ("'x' is not one of 'a', 'b'.", "use one of a, b"),
    ):
        error = typer.BadParameter(said)
        error.param = Parameter("limit", "--limit")  # type: ignore[assignment]
        assert usage_line(error, "memsparse", ["--limit", "x"]) == f"--limit is 'x'; {told}"


def test_an_error_that_does_not_say_where_it_happened_names_the_command_called() -> None:
    error = typer.BadParameter.__mro__[1]("Something is off.")
    assert usage_line(error, "memsparse ask", []) == "something is off; see 'memsparse ask --help'"
