//! What was typed: for each option the strongest source that gives it, as text.
//!
//! The first of the two steps from sources to [`super::Config`]. Pure: arguments, a look-up and
//! the pairs of the `.env` file come in. It checks which flags exist, never what a value means.
//! Invariant: no problem reported here repeats a value or an argument, for it may be the key, and
//! for the same reason what holds values has no `Debug`.

use std::ffi::OsString;

use lexopt::{Arg, Parser};

use super::options::{OPTIONS, OptionSpec, find_by_flag};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The `.env` file.
    Dotenv,
}

/// A value as typed, without surrounding blanks and quotes; never empty.
pub struct OptionValue {
    /// Where it came from.
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

/// What the command line asks for besides values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Serve.
    #[default]
    Run,
    /// Ask the running server whether it lives, and stop.
    Healthcheck,
    /// Check the configuration and stop.
    Check,
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// The command line, taken apart.
#[derive(Default)]
pub struct CommandLine {
    /// Help is stronger than version, that than check, and that than a health check.
    pub mode: Mode,
    /// Values in the order given; a later one is stronger.
    pub values: Vec<(&'static str, String)>,
    /// What could not be understood, a sentence each.
    pub problems: Vec<String>,
}

impl CommandLine {
    /// Reads the arguments; the program's name is not one of them.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut line = Self::default();
        let mut parser = Parser::from_args(args);
        loop {
            match parser.next() {
                Ok(None) => return line,
                Ok(Some(Arg::Long("help") | Arg::Short('h'))) => line.set_mode(Mode::Help),
                Ok(Some(Arg::Long("version") | Arg::Short('V'))) => line.set_mode(Mode::Version),
                Ok(Some(Arg::Long("check"))) => line.set_mode(Mode::Check),
                Ok(Some(Arg::Long("healthcheck"))) => line.set_mode(Mode::Healthcheck),
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
                    "an argument that belongs to no option was found; options begin with -- (see \
                     --help)"
                        .to_owned(),
                ),
                Err(lexopt::Error::UnexpectedValue { option, .. }) => {
                    line.problems.push(format!("{option} takes no value"));
                }
                Err(_) => line.problems.push("the command line cannot be read".to_owned()),
            }
        }
    }

    fn set_mode(&mut self, mode: Mode) {
        let strength = |mode| mode as u8;
        if strength(mode) > strength(self.mode) {
            self.mode = mode;
        }
    }

    /// Keeps the value of a known flag; an unknown one takes its value along into oblivion.
    fn add_value(&mut self, flag: Result<&'static str, String>, value: Option<String>) {
        match (flag, value) {
            (Ok(flag), Some(value)) => self.values.push((flag, value)),
            (Ok(flag), None) => self.problems.push(format!("--{flag} needs a value")),
            (Err(name), _) => self.problems.push(format!("{name} is no option (see --help)")),
        }
    }
}

/// The value of the flag just read: behind `=`, or the next argument unless that is a flag itself
/// (`-1` is a value). Text that is not UTF-8 keeps a mark that no option accepts.
fn read_value(parser: &mut Parser) -> Option<String> {
    let value = parser.optional_value().or_else(|| {
        parser.try_raw_args()?.next_if(|arg| !arg.as_encoded_bytes().starts_with(b"--"))
    })?;
    Some(value.to_string_lossy().into_owned())
}

/// What was typed for each row of the table, by the strongest source.
pub struct RawConfig(Vec<Option<OptionValue>>);

impl RawConfig {
    /// Flags before environment before `.env` file; in each, the last value of the first name.
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

    /// Every row with what was given for it.
    pub fn values(&self) -> impl Iterator<Item = (&'static OptionSpec, &OptionValue)> {
        OPTIONS.iter().zip(&self.0).filter_map(|(row, given)| Some((row, given.as_ref()?)))
    }

    /// What was given for a variable's row.
    pub fn get(&self, variable: &str) -> Option<&OptionValue> {
        self.values().find(|(row, _)| row.variable == variable).map(|(_, given)| given)
    }
}

/// The last value of a name that is not empty.
fn last_value<N: AsRef<str>>(pairs: &[(N, String)], name: &str) -> Option<String> {
    pairs.iter().rev().filter(|(n, _)| n.as_ref() == name).find_map(|(_, text)| strip_quotes(text))
}

/// The text without blanks and then quotes around it (ollama-api.md 17), unless it is empty.
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
        let stray = "an argument that belongs to no option was found; options begin with -- (see \
                     --help)";
        check(&["--prot", "s3cret"], &[], &["--prot is no option (see --help)"]);
        check(
            &["--prot=s3cret", "--port=1"],
            &[("port", "1")],
            &["--prot is no option (see --help)"],
        );
        check(&["-k", "s3cret"], &[], &["-k is no option (see --help)"]);
        check(&["-ks3cret"], &[], &["-k is no option (see --help)"]);
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
