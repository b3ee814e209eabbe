//! What `--help` and `--version` print.
//!
//! Pure. Invariant: every row of the table of options, and every key of the configuration file, is named.

use std::fmt::Write as _;

use super::file;
use super::options::OPTIONS;

/// The flags that take no value: what is written, and the help text.
pub const COMMANDS: &[(&str, &str)] = &[
    (
        "--check",
        "Check configuration, listen address, state file and upstream, print what was found, and exit.",
    ),
    ("--json", "Print what --check found as one JSON object, for scripts."),
    (
        "--healthcheck",
        "Ask the proxy that runs with these options for /health; exit status 0 means healthy.",
    ),
    ("-h, --help", "Print this help."),
    ("-V, --version", "Print the version."),
];

/// What `--version` prints.
pub fn version() -> String {
    format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// What `--help` prints, without a line break at the end.
pub fn help() -> String {
    let mut text = format!(
        "{}\n{}\n\nUsage: {} [OPTIONS]\n\nOptions:\n",
        version(),
        env!("CARGO_PKG_DESCRIPTION"),
        env!("CARGO_PKG_NAME"),
    );
    for row in OPTIONS {
        let variables = row.variables().collect::<Vec<_>>().join(" or ");
        let head = match row.flag() {
            Some(_) => format!("{}  (or {variables})", row.usage),
            None => format!("{variables}={}  (no flag)", row.usage),
        };
        let default = match row.default_text().as_str() {
            "" => String::new(),
            default => format!(" [{default}]"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {head}\n      {}{default}", row.help.replace('`', ""));
    }
    for (usage, help) in COMMANDS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {usage}\n      {help}");
    }
    text.push_str(
        "\n\
         Flags override environment variables, which override a .env file in the working\n\
         directory, which overrides the configuration file. Empty values are ignored. HTTPS_PROXY,\n\
         HTTP_PROXY, ALL_PROXY and NO_PROXY apply to upstreams on other machines.\n\n\
         The configuration file is TOML. ${NAME} in a text is that environment variable, and $${\n\
         stands for ${; paths are relative to the file. Every key:\n\n",
    );
    for line in file::reference().lines() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}{line}", if line.is_empty() { "" } else { "  " });
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_row_and_fits_a_terminal() {
        let help = help();
        for row in OPTIONS {
            for name in row.variables() {
                assert!(help.contains(name), "{name}");
            }
            if let Some(flag) = row.flag() {
                assert!(help.contains(&format!("  {} ", row.usage)), "{flag}");
            }
            assert!(help.contains(&row.default_text()), "{}", row.variable);
        }
        assert!(help.contains("\n  [[upstream]]\n  name = ") && help.contains("\n  [[model]]\n"));
        for flag in ["--check", "--json", "--healthcheck", "-h, --help", "-V, --version"] {
            assert!(help.contains(flag), "{flag}");
        }
        for line in help.lines() {
            assert!(line.len() <= 100 && line.trim_end() == line, "{line:?}");
        }
    }
}
