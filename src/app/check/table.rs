//! What `--check` found, for people: a table of at most 80 columns, then the details, the models and the
//! settings.

use std::collections::HashMap;
use std::fmt::Write;

use super::{Answer, Report};
use crate::http::client_keys::{ClientKeys, NamedKey};
use crate::models::configured::ConfiguredModel;
use crate::net::key_limits::counts::Rates;
use crate::observe::plural;
use crate::observe::redact::Redactor;

/// The width of the table.
const WIDTH: usize = 80;

/// The widest name of a check.
const MAX_NAME_WIDTH: usize = 24;

/// The whole text, without a line break at the end.
pub(super) fn text(report: &Report<'_>) -> String {
    let config = report.config;
    let redactor = config.redactor();
    let mut text = String::new();
    add_details(&mut text, report);
    add_models(&mut text, report);
    text.push_str("\n\n");
    text.push_str(&config.describe());
    // The names of models can hold a key, too.
    format!("{}{}", table(report, &redactor), redactor.redact(&text))
}

/// A line of the table: the name of a check, whether it failed, models, time, and where or why.
type Row = [String; 5];

/// The table, and a line that sums it up.
fn table(report: &Report<'_>, redactor: &Redactor) -> String {
    let rows = rows(report);
    let longest = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or_default();
    let width = longest.min(MAX_NAME_WIDTH);
    let mut text = String::new();
    for [name, result, models, time, details] in rows {
        let name = shortened(&name, width);
        let line = format!("{name:width$}  {result:6}  {models:>6}  {time:>8}  ");
        // A key that is cut off would not be found any more.
        let details = shortened(&redactor.redact(&details), WIDTH - line.chars().count());
        text.push_str(&line);
        text.push_str(&details);
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    // Writing to a String cannot fail.
    let _ = match (report.failures(), report.config.warnings.len()) {
        (0, 0) => writeln!(text, "\nNothing is wrong."),
        (0, warnings) => writeln!(text, "\nNo check failed; warnings below: {warnings}."),
        (failed, _) => writeln!(text, "\n{failed} of {} checks failed.", report.answers.len() + 2),
    };
    text
}

fn rows(report: &Report<'_>) -> Vec<Row> {
    let config = report.config;
    let row = |name: &str, models: String, time: String, result: Result<String, &str>| {
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        let details =
            result.unwrap_or_else(|why| why.strip_prefix("error: ").unwrap_or(why).to_owned());
        [name.to_owned(), word.to_owned(), models, time, details]
    };
    let (host, port) = config.listen_addr();
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let user = |is_running: &bool| match is_running {
        true => format!("{host}:{port}, in use by a running proxy"),
        false => format!("{host}:{port}"),
    };
    let listen = report.listen.as_ref().map(user).map_err(String::as_str);
    let file = config.state_file.as_ref();
    let file = file.map_or_else(|| "in memory".to_owned(), |path| path.display().to_string());
    let state = report.state.as_ref().map(|_| file).map_err(String::as_str);
    let count = report.state.as_ref().map_or_else(|_| String::new(), usize::to_string);
    let heads = ["CHECK", "RESULT", "MODELS", "TIME", "DETAILS"];
    let mut rows = vec![
        heads.map(str::to_owned),
        row("listen", String::new(), String::new(), listen),
        row("state", count, String::new(), state),
    ];
    for answer in &report.answers {
        let name = match config.upstreams.is_empty() {
            true => "upstream".to_owned(),
            false => format!("upstream {}", answer.server.name),
        };
        let models = answer.ids.as_ref().map(|ids| ids.len().to_string()).unwrap_or_default();
        let time = format!("{} ms", answer.milliseconds);
        let found = answer.result.as_ref().map_err(|failure| failure.text.as_str());
        let found = found.map(|_| answer.server.base_url.to_string());
        rows.push(row(&name, models, time, found));
    }
    rows
}

/// A text on one line of at most some characters, of which the last three are dots if there are more.
fn shortened(text: &str, width: usize) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= width {
        return text.chars().map(visible).collect();
    }
    let begin = text.chars().take(width.saturating_sub(3)).map(visible);
    begin.chain("...".chars()).collect()
}

/// The warnings, and a line for each check.
fn add_details(text: &mut String, report: &Report<'_>) {
    let config = report.config;
    for warning in &config.warnings {
        let _ = write!(text, "\nwarning: {warning}");
    }
    if config.upstreams.is_empty() {
        let _ = match &config.upstream.proxy {
            Some(proxy) => write!(text, "\nproxy: {proxy} ({})", proxy.variable),
            None => write!(text, "\nproxy: none"),
        };
    }
    let _ = match &report.listen {
        Ok(false) => write!(text, "\nlisten: ok"),
        Ok(true) => write!(text, "\nlisten: ok, in use by a running ollama-openai-proxy"),
        Err(why) => write!(text, "\nlisten: error: {why}"),
    };
    let _ = match &report.state {
        Ok(models) => write!(text, "\nstate: ok, {}", plural::count(*models, "model")),
        Err(why) => write!(text, "\nstate: error: {why}"),
    };
    add_keys(text, &config.proxy_api_keys);
    for answer in &report.answers {
        text.push('\n');
        text.push_str(&describe(answer, !config.upstreams.is_empty()));
    }
}

/// Where to look when the upstream refuses the key.
const KEY_ADVICE: &str = "check its key (OPENAI_API_KEY, or api_key in the configuration file)";
/// How many client keys there are, and a line for each that has a name.
fn add_keys(text: &mut String, keys: &ClientKeys) {
    if keys.is_empty() {
        return;
    }
    let (count, named) = (keys.secrets().count(), keys.named());
    let _ = write!(text, "\nkeys: {count}, with names: {}", named.len());
    for NamedKey { name, models, rates } in named {
        let _ = write!(text, "\nkey {name}:");
        if !models.is_empty() {
            let _ = write!(text, " models={}", models.join(","));
        }
        for (member, limit) in rates.members() {
            let _ = limit.map(|limit| write!(text, " {member}={limit}"));
        }
        if *rates == Rates::default() && models.is_empty() {
            text.push_str(" no limits");
        }
    }
}

/// The line of an upstream. One of several has a name, an address and a proxy.
fn describe(answer: &Answer<'_>, is_named: bool) -> String {
    let Answer { server, result, ids, milliseconds } = answer;
    let found = match (result, ids) {
        (Ok(Some(family)), Some(ids)) => {
            format!("ok, {}, family {family}", plural::count(ids.len(), "model"))
        }
        (Ok(_), _) => "ok, without a list of models".to_owned(),
        (Err(failure), _) if matches!(failure.status, Some(401 | 403)) => {
            format!("{}: {KEY_ADVICE}", failure.text)
        }
        (Err(failure), _) => failure.text.clone(),
    };
    let proxy = server.proxy.as_ref().filter(|_| is_named);
    let proxy = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    let unchecked = if server.tls.verify { "" } else { "; tls_verify is false" };
    let name = if is_named {
        format!(" {} ({}{proxy})", server.name, server.base_url)
    } else {
        String::new()
    };
    format!("upstream{name}: {found}, {milliseconds} ms{unchecked}")
}

/// Lists the models: those of the configuration, then each that an upstream lists.
fn add_models(text: &mut String, report: &Report<'_>) {
    for model in &report.config.models {
        let _ = write!(text, "\n  {}", describe_model(model, report));
    }
    let mut known: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for answer in &report.answers {
        for id in answer.ids.iter().flatten() {
            let at = *places.entry(id).or_insert(known.len());
            if at == known.len() {
                known.push((id, Vec::new()));
            }
            known[at].1.push(&answer.server.name);
        }
    }
    for (id, names) in known {
        let _ = match report.config.upstreams.is_empty() {
            false => write!(text, "\n  {id} ({})", names.join(", ")),
            true => write!(text, "\n  {id}"),
        };
    }
}

/// A model of the configuration, what it stands for, and which of that no list shows.
fn describe_model(model: &ConfiguredModel, report: &Report<'_>) -> String {
    let targets = model.targets.iter().map(|target| {
        let is_missing = report.is_listed(target) == Some(false);
        let mark = if is_missing { " (not listed)" } else { "" };
        match &target.upstream {
            Some(name) => format!("{name}/{}{mark}", target.id),
            None => format!("{}{mark}", target.id),
        }
    });
    let targets: Vec<_> = targets.collect();
    let hidden = if model.is_hidden { ", hidden" } else { "" };
    format!("{} = {} ({}{hidden})", model.model.name, targets.join(", "), model.strategy.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_line_that_fits() {
        let check = |text: &str, width: usize, expected: &str| {
            assert_eq!(shortened(text, width), expected, "{text:?}");
        };
        check("abc", 3, "abc");
        check("abcdef", 5, "ab...");
        check("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", 4, "\u{e9}...");
        check("a\nb\u{1b}[1m", 9, "a b [1m");
        check("a\nbcdef", 6, "a b...");
    }
}
