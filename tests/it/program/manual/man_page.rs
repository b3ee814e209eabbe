//! The man page.

use std::fmt::Write as _;

use ollama_openai_proxy::config::{OPTIONS, file_reference};

use super::{PROGRAM, Row, Values, commands, compare, flags, placeholder, values};

/// A text that roff shows as it is. A hyphen stays one that can be copied into a shell.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A line that would be a request because of its first character is none.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// Lines that stay as they are.
fn verbatim(text: &str) -> String {
    text.lines().map(|line| guarded(&escaped(line))).collect::<Vec<_>>().join("\n")
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", escaped(text))
}

/// Prose, in which words between back ticks are bold.
fn prose(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let text: String =
        parts.map(|(at, part)| if at % 2 == 0 { escaped(part) } else { bold(part) }).collect();
    guarded(text.trim())
}

/// A word or a flag, and what it means.
fn entry(text: &mut String, head: &str, paragraphs: &[String]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, ".TP\n{head}\n{}", paragraphs.join("\n.br\n"));
}

fn section(text: &mut String, name: &str) {
    let _ = writeln!(text, ".SH {name}");
}

/// Paragraphs.
fn add(text: &mut String, paragraphs: &[&str]) {
    for (at, paragraph) in paragraphs.iter().enumerate() {
        let begin = if at == 0 { "" } else { ".PP\n" };
        let _ = writeln!(text, "{begin}{}", prose(paragraph));
    }
}

/// Lines that stay as they are, indented.
fn add_example(text: &mut String, what: &str, lines: &str) {
    let _ = write!(text, ".PP\n{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n", prose(what), verbatim(lines));
}

/// What is said of an option beside its help text.
fn facts(row: &Row) -> Option<String> {
    let mut facts = Vec::new();
    let names: Vec<_> = row.variables().map(bold).collect();
    if row.flag().is_some() {
        facts.push(format!("Environment: {}.", names.join(" or ")));
    } else if names.len() > 1 {
        facts.push(format!("Also {}.", names[1..].join(" or ")));
    }
    if let Values::OneOf(words) = values(row)
        && row.flag().is_some()
    {
        facts.push(format!(
            "One of {}.",
            words.into_iter().map(bold).collect::<Vec<_>>().join(", ")
        ));
    }
    match row.default_text().as_str() {
        "" => {}
        default => facts.push(format!("Default: {}.", bold(default))),
    }
    if row.needs_restart {
        facts.push("A restart applies it.".to_owned());
    }
    (!facts.is_empty()).then(|| facts.join("\n"))
}

fn options(text: &mut String) {
    section(text, "OPTIONS");
    add(
        text,
        &[
            "A value stands behind `=` or is the next argument. Options override environment variables, which \
             override a `.env` file in the working directory, which overrides the configuration file. Empty \
             values are ignored. A wrong value stops the start with a line that names it.",
        ],
    );
    for (row, flag) in flags() {
        let head = format!("{} {}", bold(&format!("--{flag}")), italic(placeholder(row)));
        let paragraphs: Vec<_> =
            [Some(prose(row.help)), facts(row)].into_iter().flatten().collect();
        entry(text, &head, &paragraphs);
    }
    for (short, long, help) in commands() {
        let long = bold(&format!("--{long}"));
        let head = short.map_or_else(|| long.clone(), |short| format!("{}, {long}", bold(short)));
        entry(text, &head, &[prose(help)]);
    }
    section(text, "ENVIRONMENT");
    add(text, &["Beside the variables of the options above, these have no option:"]);
    for row in OPTIONS.iter().filter(|row| row.flag().is_none()) {
        let head = format!("{}={}", bold(row.variable), italic(placeholder(row)));
        let paragraphs: Vec<_> =
            [Some(prose(row.help)), facts(row)].into_iter().flatten().collect();
        entry(text, &head, &paragraphs);
    }
    entry(
        text,
        "\\fBHTTPS_PROXY\\fR, \\fBHTTP_PROXY\\fR, \\fBALL_PROXY\\fR, \\fBNO_PROXY\\fR",
        &[prose("Proxies on the way to upstreams on other machines, as curl reads them.")],
    );
    entry(
        text,
        "\\fBSSL_CERT_FILE\\fR, \\fBSSL_CERT_DIR\\fR",
        &[prose("More authorities (PEM) that certificates of upstreams may come from.")],
    );
}

fn files(text: &mut String) {
    section(text, "FILES");
    let state = OPTIONS.iter().find(|row| row.variable == "PROXY_STATE").expect("a row");
    entry(
        text,
        &italic(&state.default_text()),
        &[prose("Models that clients created; `PROXY_STATE` names another file.")],
    );
    entry(
        text,
        &italic(".env"),
        &[prose("Environment variables, read from the working directory if it is there.")],
    );
    entry(
        text,
        &italic("FILE of --config"),
        &[prose(
            "Options, upstreams and models, as TOML. `${NAME}` in a text is that environment variable, and \
             `$${` stands for `${`; paths are relative to the file. Every key:",
        )],
    );
    let _ = write!(text, ".RS\n.PP\n.nf\n{}\n.fi\n.RE\n", verbatim(&file_reference()));
}

fn signals_and_status(text: &mut String) {
    section(text, "SIGNALS");
    for (names, help) in [
        (
            &["SIGTERM", "SIGINT"][..],
            "Refuses new connections, completes running responses within `SHUTDOWN_GRACE`, and ends. A second \
             one ends the program at once.",
        ),
        (
            &["SIGHUP"],
            "Reads the configuration file, `.env`, key files and client keys anew. A mistake changes nothing \
             and is logged; the log names the options that only a restart changes. If the terminal is gone \
             that the program was started in, SIGHUP ends it.",
        ),
    ] {
        let head = names.iter().map(|name| bold(name)).collect::<Vec<_>>().join(", ");
        entry(text, &head, &[prose(help)]);
    }
    section(text, "EXIT STATUS");
    for (status, help) in [
        ("0", "The server ended after a signal; or all that was asked for succeeded."),
        (
            "1",
            "A wrong option or value, a file that cannot be read, or an address that cannot be listened on, \
             each told on standard error in a line that begins with `Error:`. With `--check`, something that \
             was checked failed, which the output tells; with `--healthcheck`, the server is not healthy.",
        ),
        ("130, 143", "A second SIGINT or SIGTERM (128 and the signal's number)."),
    ] {
        entry(text, &bold(status), &[prose(help)]);
    }
}

fn man_page() -> String {
    let name = escaped(PROGRAM);
    let mut text = format!(
        ".\\\" Made from the table of options by tests/it/program/manual.\n\
         .TH OLLAMA\\-OPENAI\\-PROXY 1 \"\" \"{name} {}\" \"User Commands\"\n\
         .nh\n.ad l\n",
        env!("CARGO_PKG_VERSION")
    );
    section(&mut text, "NAME");
    let _ = writeln!(
        text,
        "{name} \\- {}",
        escaped("answers Ollama's API through OpenAI-compatible servers")
    );
    section(&mut text, "SYNOPSIS");
    let _ = writeln!(text, ".B {name}\n[\\fIOPTIONS\\fR]");
    for more in
        ["--check\\fR [\\fB--json\\fR]", "--healthcheck\\fR", "--help\\fR | \\fB--version\\fR"]
    {
        let more = more.replace('-', "\\-");
        let options = if more.contains("help") { "" } else { " [\\fIOPTIONS\\fR]" };
        let _ = writeln!(text, ".br\n.B {name}\n\\fB{more}{options}");
    }
    section(&mut text, "DESCRIPTION");
    add(
        &mut text,
        &[
            "Answers the HTTP APIs of Ollama, OpenAI and Anthropic, and does the work through one or several \
             servers with OpenAI's API. Without options it listens on 127.0.0.1:11434, as Ollama does, and \
             asks api.openai.com with the key in `OPENAI_API_KEY`.",
            "On any address but the default, anyone who can connect uses the upstream with its key, unless \
             `--proxy-api-keys` is given. There is no TLS for clients: use a reverse proxy.",
            "`--check` prints a table of the listen address, the state file and each upstream, then the \
             details, the models and the settings in force, with keys masked. `--check --json` prints the \
             same as one object: `ok`, `version`, `listen`, `state`, `upstreams`, `models`, `warnings` and \
             `settings`. An upstream has `name`, `base_url`, `reachable`, `status` (`ok` or `error`), \
             `http_status`, `models` (their number), `model_ids` and `error`.",
        ],
    );
    options(&mut text);
    files(&mut text);
    signals_and_status(&mut text);
    section(&mut text, "EXAMPLES");
    add(&mut text, &["Keys are given as variables here, because options show in process lists."]);
    let examples = [
        ("OpenAI behind Ollama's address:", format!("OPENAI_API_KEY=sk-... {PROGRAM}")),
        ("A local llama.cpp or vLLM:", format!("{PROGRAM} --base-url http://127.0.0.1:8000/v1")),
        (
            "For other machines, with a key that clients must send:",
            format!("PROXY_API_KEYS=... {PROGRAM} --host 0.0.0.0:11434"),
        ),
        (
            "Several upstreams, checked first; then the ones that fail, by name:",
            format!(
                "{PROGRAM} --config proxy.toml --check\n{PROGRAM} --config proxy.toml --check --json |\n    \
                 jq -r '.upstreams[] | select(.status != \"ok\") | .name'"
            ),
        ),
        ("Read the configuration anew:", format!("kill -HUP $(pidof {PROGRAM})")),
    ];
    for (what, lines) in examples {
        add_example(&mut text, what, &lines);
    }
    text
}

#[test]
fn the_man_page_tells_the_options_of_the_table() {
    compare("ollama-openai-proxy.1", &man_page());
}

#[test]
fn no_text_of_the_man_page_is_taken_for_a_request() {
    assert_eq!(
        verbatim(".env\n'x' \\n --a-b ~ ^ `"),
        "\\&.env\n\\(aqx\\(aq \\en \\-\\-a\\-b \\(ti \\(ha \\(ga"
    );
    assert_eq!(prose("`.env` or `--x`."), "\\fB.env\\fR or \\fB\\-\\-x\\fR.");
    assert_eq!((prose(".PP"), prose("'PP")), ("\\&.PP".to_owned(), "\\(aqPP".to_owned()));
}

#[test]
fn every_option_of_the_man_page_has_its_variable_and_its_default() {
    let page = man_page();
    assert!(page.is_ascii());
    for row in OPTIONS {
        for name in row.variables() {
            assert!(page.contains(&bold(name)), "{name}");
        }
        if let Some(flag) = row.flag() {
            let from = page.find(&format!(".TP\n\\fB{}\\fR \\fI", escaped(&format!("--{flag}"))));
            let of_row = page[from.expect(flag)..].split("\n.TP\n").next().expect("an entry");
            assert!(of_row.contains(&bold(row.variable)), "{of_row}");
            assert!(of_row.contains(&bold(&row.default_text())) || row.default_text().is_empty());
        }
    }
    let names = "NAME SYNOPSIS DESCRIPTION OPTIONS ENVIRONMENT FILES SIGNALS EXIT@STATUS EXAMPLES";
    let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    assert_eq!(sections.join(" ").replace("EXIT STATUS", "EXIT@STATUS"), names);
}
