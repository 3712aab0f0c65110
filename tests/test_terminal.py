"""Names with [brackets] are shown as they are."""

from mlcls_jax.terminal import console, print_table, print_warning


def test_brackets_are_no_markup():
    with console.capture() as capture:
        print_table("[t]", ["[bold]group", "n"], [["[a-h]ead/.*", "[/x]"]])
        print_warning("class cat [indoor]")
    text = capture.get()
    for shown in ("[t]", "[bold]group", "[a-h]ead/.*", "[/x]", "warning: class cat [indoor]"):
        assert shown in text
