"""Generates completions for bash, zsh and fish."""

from __future__ import annotations

from tree import Command, Option


def bash(root: Command, shared: tuple[Option, ...]) -> str:
    """A function for bash-completion, which determines the command and then offers its words."""
    name = root.words[0]
    function = f"_{name}"
    cases, values = [], {}
    for command in root.all():
        options = (*command.options, *shared)
        flags = [n for option in options for n in option.names] + ["--help"]
        words = [below.words[-1] for below in command.commands]
        key = " ".join(command.words[1:])
        cases.append(f'        "{key}") offered="{" ".join(words + flags)}" ;;')
        for option in options:
            if option.names and option.value:
                values["|".join(option.names)] = option
    lines = [
        f"# bash completion for {name}; generated from its command line.",
        f"{function}() {{",
        "    local cur prev words cword",
        "    _init_completion || return",
        '    case "$prev" in',
    ]
    for names, option in values.items():
        if option.choices:
            known = " ".join(option.choices)
            lines.append(f'        {names}) COMPREPLY=($(compgen -W "{known}" -- "$cur")); return ;;')
        else:
            lines.append(f"        {names}) {'_filedir' if option.is_path else ':'}; return ;;")
    lines.append("    esac")
    commands = " ".join("/".join(command.words[1:]) for command in root.all()[1:])
    lines += [
        f'    local known=" {commands} " path="" word',
        '    for word in "${words[@]:1:cword-1}"; do',
        '        case "$known" in *" ${path:+$path/}$word "*) path="${path:+$path/}$word" ;; esac',
        "    done",
        '    local offered=""',
        '    case "${path//\\// }" in',
        *cases,
        "    esac",
        '    COMPREPLY=($(compgen -W "$offered" -- "$cur"))',
        "}",
        f"complete -F {function} {name}",
        "",
    ]
    return "\n".join(lines)


def zsh(root: Command, shared: tuple[Option, ...]) -> str:
    """A function per command, with _arguments."""
    name = root.words[0]
    parts = [f"#compdef {name}\n# Generated from the command line of {name}.\n"]
    for command in root.all():
        function = "_" + "_".join(command.words)
        specs = [spec for option in (*command.options, *shared) for spec in _zsh_specs(option)]
        specs.append("'(-h --help)'{-h,--help}'[show help]'")
        if command.commands:
            specs += ["'1: :->command'", "'*:: :->rest'"]
        body = " \\\n    ".join(["_arguments -C", *specs])
        parts.append(f"{function}() {{\n  local state line\n  {body}\n")
        if command.commands:
            listed = " ".join(f"'{_quoted(c.words[-1])}:{_quoted(c.summary)}'" for c in command.commands)
            cases = "\n".join(f"      {c.words[-1]}) _{'_'.join(c.words)} ;;" for c in command.commands)
            parts.append(
                f"  case $state in\n    command) local -a found=({listed}); _describe command found ;;\n"
                f"    rest) case $line[1] in\n{cases}\n      esac ;;\n  esac\n"
            )
        parts.append("}\n")
    parts.append(f'_{name} "$@"\n')
    return "".join(parts)


def _zsh_specs(option: Option) -> list[str]:
    action = f"({' '.join(option.choices)})" if option.choices else "_files" if option.is_path else ""
    value = f":{_quoted(option.value.lower())}:{action}" if option.value else ""
    if not option.names:
        return [f"'*{value or ':text:'}'"]
    return [f"'{name}[{_quoted(option.help)}]{value}'" for name in option.names]


def _quoted(text: str) -> str:
    """Escape for single quotes and for _arguments."""
    for character in ":[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''")


def fish(root: Command, shared: tuple[Option, ...]) -> str:
    """A line per option, with the condition on the preceding words."""
    name = root.words[0]
    lines = [f"# fish completion for {name}; generated from its command line.", f"complete -c {name} -f"]
    for command in root.all():
        seen = " ".join(f"__fish_seen_subcommand_from {word};" for word in command.words[1:]).replace(
            "; _", "; and _"
        )
        below = " ".join(each.words[-1] for each in command.commands)
        here = seen.rstrip(";") if seen else ""
        if below:
            before = (
                f"{here}; and not __fish_seen_subcommand_from {below}" if here else "__fish_use_subcommand"
            )
            for each in command.commands:
                lines.append(
                    f"complete -c {name} -n '{before}' -a {each.words[-1]} -d '{_fish(each.summary)}'"
                )
        condition = f" -n '{here}'" if here else ""
        lines += [_fish_line(name, condition, option) for option in command.options if option.names]
    lines += [_fish_line(name, "", option) for option in shared]
    return "\n".join(lines) + "\n"


def _fish_line(name: str, condition: str, option: Option) -> str:
    flags = "".join(f" -l {n[2:]}" if n.startswith("--") else f" -s {n[1:]}" for n in option.names)
    takes = " -r" if option.value else ""
    values = f" -a '{' '.join(option.choices)}'" if option.choices else " -F" if option.is_path else ""
    return f"complete -c {name}{condition}{flags}{takes}{values} -d '{_fish(option.help)}'"


def _fish(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
