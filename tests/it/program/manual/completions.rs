//! The completions for bash, zsh and fish.

use std::fmt::Write as _;

use super::{PROGRAM, Values, commands, compare, flags, placeholder, values};

/// What opens each of the files after its first line.
const HEAD: &str = "# Made from the table of options by tests/it/program/manual.\n";

/// The help text as a note beside an option.
fn note(help: &str) -> String {
    help.replace('`', "").trim_end_matches('.').to_owned()
}

/// A word in single quotes, as bash and zsh read it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A word in single quotes, as fish reads it.
fn quoted_for_fish(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A text with backslashes before some characters, and before backslashes.
fn escaped(text: &str, special: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if c == '\\' || special.contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Works with bash 4 alone: `=` is a word of its own there.
fn bash() -> String {
    let mut text = format!(
        "# Completion of {PROGRAM} for bash (4 or newer).\n{HEAD}\n\
         _ollama_openai_proxy() {{\n\
         \x20   local current=${{COMP_WORDS[COMP_CWORD]}} option='' words=()\n\
         \x20   ((COMP_CWORD == 0)) || option=${{COMP_WORDS[COMP_CWORD - 1]}}\n\
         \x20   if [ \"$current\" = = ]; then\n\
         \x20       current=\n\
         \x20   elif [ \"$option\" = = ] && ((COMP_CWORD > 1)); then\n\
         \x20       option=${{COMP_WORDS[COMP_CWORD - 2]}}\n\
         \x20   fi\n\
         \x20   COMPREPLY=()\n\
         \x20   case $option in\n"
    );
    let of_kind = |wanted: &Values| {
        let same = flags().filter(|(row, _)| values(row) == *wanted);
        same.map(|(_, flag)| format!("--{flag}")).collect::<Vec<_>>().join(" | ")
    };
    let _ = write!(
        text,
        "    {})\n        compopt -o filenames 2>/dev/null\n        \
         mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n        return\n        ;;\n    \
         {})\n        return\n        ;;\n",
        of_kind(&Values::Files),
        of_kind(&Values::Free),
    );
    for (row, flag) in flags() {
        if let Values::OneOf(words) = values(row) {
            let words = words.join(" ");
            let _ = writeln!(text, "    --{flag}) words=({words}) ;;");
        }
    }
    text.push_str("    *)\n        words=(\n");
    for flag in flags().map(|(_, flag)| flag).chain(commands().map(|(_, long, _)| long)) {
        let _ = writeln!(text, "            --{flag}");
    }
    text.push_str(
        "        )\n        ;;\n    esac\n    \
         mapfile -t COMPREPLY < <(compgen -W \"${words[*]}\" -- \"$current\")\n}\n\n",
    );
    let _ = writeln!(text, "complete -F _ollama_openai_proxy {PROGRAM}");
    text
}

fn zsh() -> String {
    let mut text = format!("#compdef {PROGRAM}\n{HEAD}\n_arguments -s -S \\\n");
    for (row, flag) in flags() {
        let action = match values(row) {
            Values::Files => "_files".to_owned(),
            Values::OneOf(words) => format!("({})", words.join(" ")),
            Values::Free => " ".to_owned(),
        };
        let help = escaped(&note(row.help), "[]");
        let value = escaped(placeholder(row), ":");
        let _ = writeln!(text, "    {} \\", quoted(&format!("--{flag}=[{help}]:{value}:{action}")));
    }
    let mut lines = Vec::new();
    for (short, long, help) in commands() {
        let help = escaped(&note(help), "[]");
        match short {
            // With these, nothing else counts.
            Some(short) => lines.extend(
                [short, &format!("--{long}")].map(|flag| quoted(&format!("(- *){flag}[{help}]"))),
            ),
            None => lines.push(quoted(&format!("--{long}[{help}]"))),
        }
    }
    let _ = writeln!(text, "    {}", lines.join(" \\\n    "));
    text
}

fn fish() -> String {
    let mut text = format!(
        "# Completion of {PROGRAM} for fish.\n{HEAD}\n# No argument is a file, unless it says so below.\n\
         complete -c {PROGRAM} -f\n"
    );
    for (row, flag) in flags() {
        let value = match values(row) {
            Values::Files => "-r -F".to_owned(),
            Values::OneOf(words) => format!("-x -a {}", quoted_for_fish(&words.join(" "))),
            Values::Free => "-x".to_owned(),
        };
        let note = quoted_for_fish(&note(row.help));
        let _ = writeln!(text, "complete -c {PROGRAM} -l {flag} {value} -d {note}");
    }
    for (short, long, help) in commands() {
        let short = short.map(|it| format!("-s {} ", it.trim_start_matches('-')));
        let (short, note) = (short.unwrap_or_default(), quoted_for_fish(&note(help)));
        let _ = writeln!(text, "complete -c {PROGRAM} {short}-l {long} -d {note}");
    }
    text
}

#[test]
fn bash_completes_the_options_of_the_table() {
    compare("completions/ollama-openai-proxy.bash", &bash());
}

#[test]
fn zsh_completes_the_options_of_the_table() {
    compare("completions/_ollama-openai-proxy", &zsh());
}

#[test]
fn fish_completes_the_options_of_the_table() {
    compare("completions/ollama-openai-proxy.fish", &fish());
}

#[test]
fn what_shells_would_read_otherwise_is_escaped() {
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted_for_fish(r"it's \n"), r"'it\'s \\n'");
    assert_eq!(escaped(r"a[b]\c", "[]"), r"a\[b\]\\c");
    assert_eq!(escaped("HOST[:PORT]", ":"), r"HOST[\:PORT]");
    assert_eq!(note("`1` or `true`."), "1 or true");
}
