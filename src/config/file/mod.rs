//! The configuration file: several upstreams, models with names of one's own, and any option.
//!
//! TOML. The options stand in `[server]` under their flags' names; each `[[upstream]]`, each
//! `[[model]]` and each `[[key]]` has the keys of its table (`upstream_keys.rs`, `model_keys.rs`,
//! `key_section.rs`), which also make the reference in `--help`
//! and in the README. `${NAME}` in any text is the value of that variable of the environment or of the
//! `.env` file, and `$${` stands for `${`. Paths are relative to the folder of the file, and `~/` is the
//! home folder. Key files and certificates are read here, so that a start or a reload with one that cannot
//! be read fails.
//! Invariant: all mistakes are told together, each with its line; none quotes a value that may be secret.

mod key_section;
mod model_keys;
mod node;
mod problems;
mod reference;
mod scope;
mod server_section;
mod upstream_keys;

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use self::node::Member;
use self::problems::Problems;
pub use self::reference::reference;
use self::scope::Scope;
pub use self::upstream_keys::Surroundings;
use super::nearest::{nearest, suggest};
use super::options::OptionSpec;
use super::raw::OptionValue;
use super::read_file;
use crate::http::client_keys::ClientKeys;
use crate::models::configured::ConfiguredModel;
use crate::observe::redact::Secret;
use crate::upstream::settings::{DEFAULT_NAME, ServerSettings};

/// The sections of the file.
const SERVER: &str = "server";
const UPSTREAM: &str = "upstream";
const MODEL: &str = "model";
const KEY: &str = "key";
const SECTIONS: [&str; 4] = [SERVER, UPSTREAM, MODEL, KEY];

/// The length from which the value of a variable may be a key; shorter ones are words of problems, too.
const MIN_SECRET_LEN: usize = 8;

/// What a file says.
#[derive(Default)]
pub struct ConfigFile {
    /// The options, in any order.
    pub options: Vec<(&'static OptionSpec, OptionValue)>,
    /// True if the file defines the upstreams, and not the environment.
    pub has_upstreams: bool,
    /// The upstreams, in order.
    pub upstreams: Vec<ServerSettings>,
    /// The models, in order.
    pub models: Vec<ConfiguredModel>,
    /// The client keys, in order.
    pub keys: ClientKeys,
    /// The values of variables that must be masked.
    pub secrets: Vec<Secret>,
    /// Each mistake with its line, which its text also names.
    pub problems: Vec<(usize, String)>,
}

/// The environment of a file.
pub struct Environment<'a> {
    /// Finds the variables that the file names.
    pub find: &'a dyn Fn(&str) -> Option<String>,
    /// The user's home folder.
    pub home: Option<String>,
    /// What holds for all upstreams.
    pub surroundings: Surroundings<'a>,
    /// True if only the options are wanted: the upstreams' keys may not be there.
    pub is_server_only: bool,
}

/// Reads a file.
///
/// # Errors
/// Why it cannot be read at all.
pub fn read(path: &Path, environment: &Environment<'_>) -> Result<ConfigFile, String> {
    let bytes = read_file::read(path)?;
    let changed = fs::metadata(path).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(parse(&bytes, (path, changed), environment))
}

/// Reads the text of a file that was last changed at this time.
pub fn parse(
    bytes: &[u8],
    (path, changed): (&Path, SystemTime),
    environment: &Environment<'_>,
) -> ConfigFile {
    let name = path.display().to_string();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line =
                1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            let problems = vec![(line, format!("{name}:{line}: not UTF-8 text"))];
            return ConfigFile { problems, ..ConfigFile::default() };
        }
    };
    let mut scope = Scope {
        problems: Problems::default(),
        section_lines: Vec::new(),
        folder: path.parent().unwrap_or(Path::new("")),
        home: environment.home.clone(),
        secrets: Vec::new(),
    };
    let is_wanted = |section: &str| !environment.is_server_only || section == SERVER;
    let values = RefCell::new(Vec::new());
    let find = |name: &str| {
        let value = (environment.find)(name);
        values.borrow_mut().extend(value.clone());
        value
    };
    let members = node::parse(text, &is_wanted, &find, &mut scope.problems);
    scope.section_lines = section_lines(&members);
    let mut file = read_sections(&members, (&name, changed), environment, &mut scope);
    file.secrets = scope.secrets;
    file.problems = scope.problems.into_lines(&name);
    file.problems.iter_mut().for_each(|(_, problem)| mask(problem, &values.borrow()));
    file
}

/// Masks the values of variables, of which one may be a key in the place of something that is told.
fn mask(problem: &mut String, values: &[String]) {
    for value in values.iter().filter(|value| value.len() >= MIN_SECRET_LEN) {
        if problem.contains(value.as_str()) {
            *problem = problem.replace(value.as_str(), "***");
        }
    }
}

/// Reads the sections.
fn read_sections(
    members: &[Member],
    (name, changed): (&str, SystemTime),
    environment: &Environment<'_>,
    scope: &mut Scope<'_>,
) -> ConfigFile {
    let mut file = ConfigFile::default();
    let find = |name: &str| members.iter().find(|member| member.key == name);
    for member in members.iter().filter(|member| !SECTIONS.contains(&member.key.as_str())) {
        refuse_section(member, scope);
    }
    if let Some(member) = find(SERVER) {
        file.options = server_section::read(member, name, scope);
    }
    if let Some(member) = find(UPSTREAM) {
        file.has_upstreams = true;
        file.upstreams = upstream_keys::read_all(member, &environment.surroundings, scope);
    }
    if let Some(member) = find(MODEL) {
        let mut names: Vec<_> = file.upstreams.iter().map(|server| server.name.clone()).collect();
        if !file.has_upstreams {
            names.push(DEFAULT_NAME.to_owned());
        }
        let upstreams = find(UPSTREAM).map(|it| section_lines(std::slice::from_ref(it)));
        let mut upstreams = upstreams.into_iter().flatten();
        let is_lost =
            scope.problems.lacks_section() || upstreams.any(|line| scope.has_broken_line(line));
        let names = (!is_lost).then_some(names.as_slice());
        file.models = model_keys::read_all(member, names, changed, scope);
    }
    if let Some(member) = find(KEY) {
        file.keys = key_section::read_all(member, scope);
    }
    file
}

/// The lines that sections begin in, in order.
fn section_lines(members: &[Member]) -> Vec<usize> {
    let lines = |member: &Member| match &member.node.item {
        node::Item::List(nodes) => nodes.iter().map(|node| node.line).collect(),
        _ => vec![member.line],
    };
    let mut lines: Vec<_> = members.iter().flat_map(lines).collect();
    lines.sort_unstable();
    lines
}

/// A section as it is written.
fn show_section(name: &str) -> String {
    if name == SERVER { format!("[{name}]") } else { format!("[[{name}]]") }
}

/// Says that the file has no such section, or that the key belongs into one.
fn refuse_section(member: &Member, scope: &mut Scope<'_>) {
    let shown = scope::show_name(&member.key);
    let is_table = matches!(member.node.item, node::Item::Table(_) | node::Item::List(_));
    let keys = server_section::keys();
    let near_section = SECTIONS.into_iter().find(|name| suggest(&member.key, [*name]).is_some());
    let near_key = nearest(&member.key, keys.iter().map(String::as_str));
    let problem = if let Some(near) = near_section.filter(|_| is_table) {
        format!("unknown section {shown}: did you mean {}?", show_section(near))
    } else if let Some(near) = near_key {
        match near == member.key {
            true => format!("the key {shown} stands before all sections: put it below [server]"),
            false => format!("unknown key {shown}: did you mean {near} in [server]?"),
        }
    } else {
        format!(
            "unknown key {shown}: known sections are [server], [[upstream]], [[model]] and [[key]]"
        )
    };
    scope.problems.add(member.line, &problem);
}

#[cfg(test)]
mod tests;
