//! Finds the value of each option, as text, in the source of the highest precedence.
//!
//! The first of the two steps from sources to [`super::Config`]. Pure: arguments, a look-up and
//! the pairs of the `.env` file come in. Checks which flags exist, never what a value means.
//! Invariant: no problem quotes a value or an argument, because it may be a key; types that hold
//! values have no `Debug` for the same reason.

use std::ffi::OsString;

use lexopt::{Arg, Parser};

use super::options::{OPTIONS, OptionSpec, find_by_flag};

/// The source of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The `.env` file.
    Dotenv,
}

/// A value without surrounding whitespace and quotes; never empty.
pub struct OptionValue {
    /// Its source.
    pub source: Source,
    /// The flag without dashes, or the variable: the alias, if that was used.
    pub name: &'static str,
    /// The text.
    pub text: String,
}

impl OptionValue {
    /// The option as the user wrote it.
    pub fn label(&self) -> String {
        match self.source {
            Source::Flag => format!("--{}", self.name),
            Source::Environment => self.name.to_owned(),
            Source::Dotenv => format!("{} in .env", self.name),
        }
    }
}

/// The mode that the command line selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Serve.
    #[default]
    Run,
    /// Check the health of the running server and exit.
    Healthcheck,
    /// Check the configuration and exit.
    Check,
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// The parsed command line.
#[derive(Default)]
pub struct CommandLine {
    /// The highest mode: help over version over check over health check.
    pub mode: Mode,
    /// Values in order; a later one overrides an earlier one.
    pub values: Vec<(&'static str, String)>,
    /// One text per argument that cannot be parsed.
    pub problems: Vec<String>,
}

impl CommandLine {
    /// Parses the arguments, without the program's name.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut line = Self::default();
        let mut parser = Parser::from_args(args);
        loop {
            match parser.next() {
                Ok(None) => return line,
                Ok(Some(Arg::Long("help") | Arg::Short('h'))) => {
                    line.mode = line.mode.max(Mode::Help)
                }
                Ok(Some(Arg::Long("version") | Arg::Short('V'))) => {
                    line.mode = line.mode.max(Mode::Version)
                }
                Ok(Some(Arg::Long("check"))) => line.mode = line.mode.max(Mode::Check),
                Ok(Some(Arg::Long("healthcheck"))) => line.mode = line.mode.max(Mode::Healthcheck),
                Ok(Some(Arg::Long(name))) => {
                    let known =
                        find_by_flag(name).and_then(|row| row.flag).ok_or(format!("--{name}"));
                    line.add_value(known, read_value(&mut parser));
                }
                Ok(Some(Arg::Short(name))) => {
                    let name = Err(format!("-{name}"));
                    line.add_value(name, read_value(&mut parser));
                }
                Ok(Some(Arg::Value(_))) => line.problems.push(
                    "unexpected argument: this program takes options only (see --help)".to_owned(),
                ),
                Err(lexopt::Error::UnexpectedValue { option, .. }) => {
                    line.problems.push(format!("{option} takes no value"));
                }
                Err(_) => line.problems.push("malformed command line".to_owned()),
            }
        }
    }

    /// Stores the value of a known flag; the value of an unknown flag is discarded.
    fn add_value(&mut self, flag: Result<&'static str, String>, value: Option<String>) {
        match (flag, value) {
            (Ok(flag), Some(value)) => self.values.push((flag, value)),
            (Ok(flag), None) => self.problems.push(format!("--{flag} needs a value")),
            (Err(name), _) => self.problems.push(format!("unknown option {name} (see --help)")),
        }
    }
}

/// The value of the flag just read: after `=`, or the next argument unless that is a flag itself
/// (`-1` is a value). Bytes that are not UTF-8 become U+FFFD, which no option accepts.
fn read_value(parser: &mut Parser) -> Option<String> {
    let value = parser.optional_value().or_else(|| {
        parser.try_raw_args()?.next_if(|arg| !arg.as_encoded_bytes().starts_with(b"--"))
    })?;
    Some(value.to_string_lossy().into_owned())
}

/// The value of each row of the table, from the source of the highest precedence.
pub struct RawConfig(Vec<Option<OptionValue>>);

impl RawConfig {
    /// Flags over environment over `.env` file; in each, the last value of the first name.
    pub fn collect(
        flags: &[(&'static str, String)],
        env: &dyn Fn(&str) -> Option<String>,
        dotenv: &[(String, String)],
    ) -> Self {
        let find = |row: &'static OptionSpec| {
            let in_flags = row.flag.into_iter().map(|name| (Source::Flag, name));
            let in_env = row.variables().map(|name| (Source::Environment, name));
            let in_dotenv = row.variables().map(|name| (Source::Dotenv, name));
            in_flags.chain(in_env).chain(in_dotenv).find_map(|(source, name)| {
                let text = match source {
                    Source::Flag => last_value(flags, name),
                    Source::Environment => env(name).as_deref().and_then(strip_quotes),
                    Source::Dotenv => last_value(dotenv, name),
                }?;
                Some(OptionValue { source, name, text })
            })
        };
        Self(OPTIONS.iter().map(find).collect())
    }

    /// Every row that has a value.
    pub fn values(&self) -> impl Iterator<Item = (&'static OptionSpec, &OptionValue)> {
        OPTIONS.iter().zip(&self.0).filter_map(|(row, given)| Some((row, given.as_ref()?)))
    }

    /// The value of a variable's row.
    pub fn get(&self, variable: &str) -> Option<&OptionValue> {
        self.values().find(|(row, _)| row.variable == variable).map(|(_, given)| given)
    }
}

/// The last value of a name that is not empty.
fn last_value<N: AsRef<str>>(pairs: &[(N, String)], name: &str) -> Option<String> {
    pairs.iter().rev().filter(|(n, _)| n.as_ref() == name).find_map(|(_, text)| strip_quotes(text))
}

/// The text without surrounding whitespace and then quotes, as in Ollama (envconfig/config.go);
/// `None` if it is empty.
fn strip_quotes(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(['"', '\'']);
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> CommandLine {
        CommandLine::parse(args.iter().map(OsString::from))
    }

    #[track_caller]
    fn check(args: &[&str], values: &[(&'static str, &str)], problems: &[&str]) {
        let line = parse(args);
        let got: Vec<_> = line.values.iter().map(|(name, text)| (*name, text.as_str())).collect();
        assert_eq!(got, values, "{args:?}");
        assert_eq!(line.problems, problems, "{args:?}");
    }

    #[test]
    fn flags_take_their_value_in_either_writing() {
        check(&["--port", "1", "--host=:2"], &[("port", "1"), ("host", ":2")], &[]);
        check(&["--port=1", "--port", "2"], &[("port", "1"), ("port", "2")], &[]);
        check(&["--keep-alive", "-1"], &[("keep-alive", "-1")], &[]);
        check(&["--base-url=http://h/?a=b"], &[("base-url", "http://h/?a=b")], &[]);
        check(&["--host", ""], &[("host", "")], &[]);
    }

    #[test]
    fn what_cannot_be_understood_is_named_without_its_value() {
        let stray = "unexpected argument: this program takes options only (see --help)";
        check(&["--prot", "s3cret"], &[], &["unknown option --prot (see --help)"]);
        check(
            &["--prot=s3cret", "--port=1"],
            &[("port", "1")],
            &["unknown option --prot (see --help)"],
        );
        check(&["-k", "s3cret"], &[], &["unknown option -k (see --help)"]);
        check(&["-ks3cret"], &[], &["unknown option -k (see --help)"]);
        check(&["s3cret"], &[], &[stray]);
        check(&["--", "--port"], &[], &[stray]);
        check(&["--check=s3cret"], &[], &["--check takes no value"]);
        check(&["--port"], &[], &["--port needs a value"]);
        check(&["--api-key", "--check"], &[], &["--api-key needs a value"]);
    }

    #[test]
    fn help_is_stronger_than_version_and_that_than_check() {
        assert_eq!(parse(&[]).mode, Mode::Run);
        assert_eq!(parse(&["--healthcheck"]).mode, Mode::Healthcheck);
        assert_eq!(parse(&["--check", "--healthcheck"]).mode, Mode::Check);
        assert_eq!(parse(&["-V", "--check"]).mode, Mode::Version);
        assert_eq!(parse(&["--version", "-h", "-V"]).mode, Mode::Help);
        assert_eq!(parse(&["--nonsense", "--help"]).mode, Mode::Help);
    }

    #[cfg(unix)]
    #[test]
    fn text_that_is_not_utf8_keeps_a_mark() {
        use std::os::unix::ffi::OsStringExt;

        let line = CommandLine::parse([OsString::from_vec(b"--port=1\xff".to_vec())]);
        assert_eq!(line.values, [("port", "1\u{fffd}".to_owned())]);
    }

    #[test]
    fn blanks_and_then_quotes_are_stripped() {
        assert_eq!(strip_quotes(" \"1.2.3.4\" ").as_deref(), Some("1.2.3.4"));
        assert_eq!(strip_quotes("'\"x'").as_deref(), Some("x"));
        assert_eq!(strip_quotes("a'b").as_deref(), Some("a'b"));
        for empty in ["", "  ", "\"\"", " '' "] {
            assert_eq!(strip_quotes(empty), None, "{empty:?}");
        }
    }
}
