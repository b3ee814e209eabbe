//! Finds the value of each option, as text, in the source of the highest precedence.
//!
//! The first of the two steps from sources to [`super::Config`]. Pure: arguments, a look-up and
//! the pairs of the `.env` file come in. Checks which flags exist, never what a value means.
//! Invariant: no problem quotes a value or an argument, because it may be a key; types that hold
//! values have no `Debug` for the same reason.

use std::ffi::{OsStr, OsString};

use lexopt::{Arg, Parser};

use super::Command;
use super::nearest::nearest;
use super::options::{OPTIONS, OptionSpec};

/// The flags that take no value.
const COMMANDS: [&str; 5] = ["help", "version", "check", "json", "healthcheck"];

/// What starts other servers, such as `ollama serve`.
const SUBCOMMANDS: [&str; 3] = ["serve", "start", "run"];

/// A value without surrounding whitespace and quotes; never empty.
pub struct OptionValue {
    /// The option as the user wrote it: `--flag`, `VARIABLE` or `VARIABLE in .env`.
    pub label: String,
    /// True if the command line sets it.
    pub is_flag: bool,
    /// True if it must not be quoted, whatever the option.
    pub is_masked: bool,
    /// The line of the configuration file that sets it.
    pub line: Option<usize>,
    /// The text.
    pub text: String,
}

/// The parsed command line.
#[derive(Default)]
pub struct CommandLine {
    /// The highest command: help over version over check over health check.
    pub command: Command,
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
        let mut wants_json = false;
        loop {
            match parser.next() {
                Ok(None) => break,
                Ok(Some(Arg::Long("help") | Arg::Short('h'))) => line.select(Command::Help),
                Ok(Some(Arg::Long("version") | Arg::Short('V'))) => line.select(Command::Version),
                Ok(Some(Arg::Long("check"))) => line.select(Command::Check),
                Ok(Some(Arg::Long("json"))) => wants_json = true,
                Ok(Some(Arg::Long("healthcheck"))) => line.select(Command::Healthcheck),
                Ok(Some(Arg::Long(name))) => {
                    let flag =
                        OPTIONS.iter().filter_map(OptionSpec::flag).find(|flag| *flag == name);
                    let flag = flag.ok_or_else(|| refuse_option(name));
                    line.add_value(flag, read_value(&mut parser));
                }
                Ok(Some(Arg::Short(name))) => {
                    let problem =
                        format!("unknown option -{name}: options begin with -- (see --help)");
                    line.add_value(Err(problem), read_value(&mut parser));
                }
                Ok(Some(Arg::Value(text))) => line.problems.push(refuse_argument(&text)),
                Err(lexopt::Error::UnexpectedValue { option, .. }) => {
                    line.problems.push(format!("{option} takes no value"));
                }
                Err(_) => line.problems.push("malformed command line".to_owned()),
            }
        }
        match line.command {
            _ if !wants_json => {}
            Command::Check => line.command = Command::CheckJson,
            _ => line.problems.push("--json needs --check (see --help)".to_owned()),
        }
        line
    }

    /// Of several commands, the highest wins.
    fn select(&mut self, command: Command) {
        self.command = self.command.max(command);
    }

    /// Stores the value of a known flag, or says what is wrong; the value of an unknown flag is discarded.
    fn add_value(&mut self, flag: Result<&'static str, String>, value: Option<String>) {
        match (flag, value) {
            (Ok(flag), Some(value)) => self.values.push((flag, value)),
            (Ok(flag), None) => self.problems.push(format!("--{flag} needs a value")),
            (Err(problem), _) => self.problems.push(problem),
        }
    }
}

/// The names that follow `--`.
fn flags() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().filter_map(OptionSpec::flag).chain(COMMANDS)
}

/// What is wrong with a flag that does not exist.
fn refuse_option(name: &str) -> String {
    match nearest(name, flags()) {
        Some(known) => format!("unknown option --{name}: did you mean --{known}?"),
        None => format!("unknown option --{name} (see --help)"),
    }
}

/// What is wrong with an argument that belongs to no flag. It may be a key, so only a word of this program
/// or of Ollama is repeated.
fn refuse_argument(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    if SUBCOMMANDS.contains(&&*text) {
        return format!("unexpected argument {text:?}: the program serves without one");
    }
    match flags().find(|flag| *flag == text) {
        Some(flag) => format!("unexpected argument {flag:?}: did you mean --{flag}?"),
        None => "unexpected argument: this program takes options only (see --help)".to_owned(),
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

/// Each row of the table that has a value: flags over environment over `.env` file; in each, the
/// last value of the first name.
pub fn collect_values(
    flags: &[(&'static str, String)],
    env: &dyn Fn(&str) -> Option<String>,
    dotenv: &[(String, String)],
) -> Vec<(&'static OptionSpec, OptionValue)> {
    let find = |row: &'static OptionSpec| {
        let in_flags = || {
            let flag = row.flag()?;
            Some((format!("--{flag}"), last_value(flags, flag)?))
        };
        let in_env = |name: &str| Some((name.to_owned(), strip_quotes(&env(name)?)?));
        let in_dotenv = |name: &str| Some((format!("{name} in .env"), last_value(dotenv, name)?));
        let flag = in_flags();
        let is_flag = flag.is_some();
        let (label, text) = flag
            .or_else(|| row.variables().find_map(in_env))
            .or_else(|| row.variables().find_map(in_dotenv))?;
        Some((row, OptionValue { label, is_flag, is_masked: false, line: None, text }))
    };
    OPTIONS.iter().filter_map(find).collect()
}

/// The value of the first of some names that has one: environment over `.env` file. For the variables of
/// proxies, which are no options of this program alone.
pub fn find_variable(
    names: &[&'static str],
    env: &dyn Fn(&str) -> Option<String>,
    dotenv: &[(String, String)],
) -> Option<(&'static str, String)> {
    let in_env = |name: &&'static str| Some((*name, strip_quotes(&env(name)?)?));
    let in_dotenv = |name: &&'static str| Some((*name, last_value(dotenv, name)?));
    names.iter().find_map(in_env).or_else(|| names.iter().find_map(in_dotenv))
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
        check(&["--prot", "s3cret"], &[], &["unknown option --prot: did you mean --port?"]);
        check(&["--api_key=s3cret"], &[], &["unknown option --api_key: did you mean --api-key?"]);
        check(&["--colour", "s3cret"], &[], &["unknown option --colour (see --help)"]);
        check(
            &["--prot=s3cret", "--port=1"],
            &[("port", "1")],
            &["unknown option --prot: did you mean --port?"],
        );
        let short = "unknown option -k: options begin with -- (see --help)";
        check(&["-k", "s3cret"], &[], &[short]);
        check(&["-ks3cret"], &[], &[short]);
        check(&["s3cret"], &[], &[stray]);
        let word = "unexpected argument \"check\": did you mean --check?";
        check(&["check"], &[], &[word]);
        let serve = "unexpected argument \"serve\": the program serves without one";
        check(&["serve"], &[], &[serve]);
        check(&["--", "--port"], &[], &[stray]);
        check(&["--check=s3cret"], &[], &["--check takes no value"]);
        check(&["--check", "--json=s3cret"], &[], &["--json takes no value"]);
        check(&["--port"], &[], &["--port needs a value"]);
        check(&["--api-key", "--check"], &[], &["--api-key needs a value"]);
    }

    #[test]
    fn help_is_stronger_than_version_and_that_than_check() {
        assert_eq!(parse(&[]).command, Command::Run);
        assert_eq!(parse(&["--healthcheck"]).command, Command::Healthcheck);
        assert_eq!(parse(&["--check", "--healthcheck"]).command, Command::Check);
        assert_eq!(parse(&["-V", "--check"]).command, Command::Version);
        assert_eq!(parse(&["--version", "-h", "-V"]).command, Command::Help);
        assert_eq!(parse(&["--nonsense", "--help"]).command, Command::Help);
    }

    #[test]
    fn json_belongs_to_a_check() {
        for args in [["--check", "--json"], ["--json", "--check"]] {
            assert_eq!(parse(&args).command, Command::CheckJson);
            check(&args, &[], &[]);
        }
        for args in [&["--json"][..], &["--healthcheck", "--json"]] {
            check(args, &[], &["--json needs --check (see --help)"]);
        }
        assert_eq!(parse(&["--json", "--help"]).command, Command::Help);
        assert_eq!(parse(&["--check", "--json", "-V"]).command, Command::Version);
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
