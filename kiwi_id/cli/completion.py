"""``kiwi-id completion``: what bash, zsh and fish need to complete commands, actions and options, made from the parsers."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, field

from kiwi_id import cli
from kiwi_id.errors import Exit

SHELLS = ("bash", "zsh", "fish")
_ENABLE = """\
bash  source <(kiwi-id completion bash)                                  in ~/.bashrc
zsh   source <(kiwi-id completion zsh)                                   in ~/.zshrc, after compinit
fish  kiwi-id completion fish > ~/.config/fish/completions/kiwi-id.fish"""


@dataclass(slots=True)
class Place:
    """What may come after some words: further words with their help, and options that take a value (of these, or any)."""

    words: dict[str, str] = field(default_factory=dict)
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"to have it always:\n{_ENABLE}"
    parser.add_argument("shell", choices=SHELLS, help="for which shell")


def run(args: argparse.Namespace) -> int:
    """Print the script; return 0."""
    places = tree()
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](places), end="")
    return Exit.OK


def tree() -> dict[str, Place]:
    """Return every place of the command line: "" is the beginning, "user add" what comes after these words."""
    places: dict[str, Place] = {}
    _walk(cli.build_parser(cli.COMMANDS)[0], "", places)
    return places


def _walk(parser: argparse.ArgumentParser, at: str, places: dict[str, Place]) -> None:
    place = places[at] = Place()
    for action in parser._actions:  # argparse has no public way to ask
        choices = tuple(map(str, action.choices or ()))
        if isinstance(action, argparse._SubParsersAction):
            helps = {chosen.dest: chosen.help or "" for chosen in action._choices_actions}
            for name, inner in action.choices.items():
                place.words[name] = helps.get(name, "")
                _walk(inner, f"{at} {name}".strip(), places)
        elif action.option_strings:
            for option in action.option_strings:
                place.words[option] = (action.help or "").replace("%%", "%")
                if action.nargs != 0:
                    place.values[option] = choices
        else:
            place.words |= dict.fromkeys(choices, "")


def _commands(places: dict[str, Place]) -> list[str]:
    return [at for at in places if at]


def _valued(places: dict[str, Place]) -> dict[tuple[str, ...], list[str]]:
    """Return where a value comes next (place and option), by what it may be."""
    found: dict[tuple[str, ...], list[str]] = {}
    for at, place in places.items():
        for option, choices in place.values.items():
            found.setdefault(choices, []).append(f"{at} {option}".strip())
    return found


def _cases(words: list[str]) -> str:
    return "|".join(map(shlex.quote, words))


_BASH = """\
# bash completion of kiwi-id, printed by 'kiwi-id completion bash'
_kiwi_id() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at="" next i words=""
    for ((i = 1; i < COMP_CWORD; i++)); do
        next="${{at:+$at }}${{COMP_WORDS[i]}}"
        case "$next" in
            {commands}) at=$next ;;
        esac
    done
    COMPREPLY=()
    case "${{at:+$at }}$prev" in
{values}
    esac
    case "$at" in
{words}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _kiwi_id kiwi-id
"""


def _bash(places: dict[str, Place]) -> str:
    values = []
    for choices, where in _valued(places).items():
        # Without an answer bash completes names of files, which is what most values are.
        answer = f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(choices))} -- "$cur")); return' if choices else "return"
        values.append(f"        {_cases(where)}) {answer} ;;")
    words = [f"        {shlex.quote(at)}) words={shlex.quote(' '.join(place.words))} ;;" for at, place in places.items()]
    return _BASH.format(commands=_cases(_commands(places)), values="\n".join(values), words="\n".join(words))


_ZSH = """\
#compdef kiwi-id
# zsh completion of kiwi-id, printed by 'kiwi-id completion zsh'
_kiwi_id() {{
    local at="" next i
    local -a found
    for ((i = 2; i < CURRENT; i++)); do
        next="${{at:+$at }}${{words[i]}}"
        case "$next" in
            ({commands}) at=$next ;;
        esac
    done
    case "${{at:+$at }}${{words[CURRENT-1]}}" in
{values}
    esac
    case "$at" in
{words}
    esac
    # Options when a hyphen was typed; else commands and choices, and where there are none, files.
    if [[ $PREFIX == -* ]]; then _describe -o option found; return; fi
    found=(${{found:#-*}})
    _describe command found || _files
}}
if [ "$funcstack[1]" = _kiwi_id ]; then _kiwi_id "$@"; else compdef _kiwi_id kiwi-id; fi
"""


def _zsh(places: dict[str, Place]) -> str:
    values = []
    for choices, where in _valued(places).items():
        answer = f"compadd -- {' '.join(map(shlex.quote, choices))}; return" if choices else "_files; return"
        values.append(f"        ({_cases(where)}) {answer} ;;")
    words = []
    for at, place in places.items():
        found = [shlex.quote(f"{word}:{text}") for word, text in place.words.items()]
        words.append(f"        ({shlex.quote(at)}) found=({' '.join(found)}) ;;")
    return _ZSH.format(commands=_cases(_commands(places)), values="\n".join(values), words="\n".join(words))


_FISH = """\
# fish completion of kiwi-id, printed by 'kiwi-id completion fish'
function __kiwi_id_at
    set -l at
    for word in (commandline -opc)[2..-1]
        set -l next (string join ' ' -- $at $word)
        if contains -- "$next" {commands}
            set -a at $word
        end
    end
    set -l found (string join ' ' -- $at)
    test "$found" = "$argv[1]"
end
{lines}
"""


def _fish(places: dict[str, Place]) -> str:
    lines = []
    for at, place in places.items():
        condition = f"complete -c kiwi-id -n {_fish_quote(f'__kiwi_id_at {_fish_quote(at)}')}"
        for word, text in place.words.items():
            parts = [condition]
            if word.startswith("--"):
                parts.append(f"-l {word[2:]}")
            elif word.startswith("-"):
                parts.append(f"-s {word[1:]}")
            else:
                parts.append(f"-f -a {_fish_quote(word)}")
            if word in place.values:
                choices = place.values[word]
                parts.append(f"-x -a {_fish_quote(' '.join(choices))}" if choices else "-r")
            lines.append(" ".join([*parts, f"-d {_fish_quote(text)}"] if text else parts))
    return _FISH.format(commands=" ".join(map(_fish_quote, _commands(places))), lines="\n".join(lines))


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
