//! The configuration: any text of any source is accepted or refused, and no secret is printed.

use std::ffi::OsString;

use ollama_openai_proxy::config::{self, Command};
use ollama_openai_proxy::upstream::base_url;
use ollama_openai_proxy::upstream::base_url::BaseUrl;

/// Words of command lines and files.
pub const WORDS: &[&str] = &[
    "--base-url=", "--api-key=", "--host=", "--workers=", "--check", "--", "-h", "HOST=",
    "OPENAI_API_BASE_URL=", "OPENAI_BASE_URL=", "OPENAI_API_KEY=", "OLLAMA_HOST=",
    "OLLAMA_ORIGINS=", "MAX_BODY=", "RETRY_MAX_MS=", "RETRY_INITIAL_MS=", "LOG_LEVEL=",
    "KEEP_ALIVE=", "STATE=", "OLLAMA_KEEP_ALIVE=", "http://", "https://", "localhost", ":8080",
    "/v1", "?api-version=1", "user:word@", "[::1]", "@", "#", "export ", "\"", "'", "$HOME", "${",
    "}", "\\", "\n", "\n---\n", "debug", "5m", "-1", "0", "99999999999999999999", "MiB", "*", " ",
    "\r\n", "\u{feff}", ".openai.azure.com",
];

/// The secret: no setting takes it up but the ones it is put into.
const MARK: &str = "pl4nted-k3y-0123456789";

/// Lines of arguments (`--...`) and of the environment (`NAME=value`), then a `.env` file behind `---`.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace(MARK, "");
    let (lines, file) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let (pairs, problems) = config::dotenv(file.as_bytes());
    assert!(problems.iter().all(|problem| problem.starts_with(".env")), "{problems:?}");
    for place in 0..8 {
        let mut args: Vec<OsString> = Vec::new();
        let mut env: Vec<(String, String)> = Vec::new();
        for line in lines.lines() {
            match line.split_once('=') {
                Some((name, value)) if !line.starts_with('-') => {
                    env.push((name.to_owned(), value.to_owned()));
                }
                _ => args.push(line.into()),
            }
        }
        let end: String = lines.chars().rev().take(12).filter(|c| !c.is_whitespace()).collect();
        // A user name ends at a slash, and then it is none but a host.
        let user = end.replace(['/', '?', '#'], "");
        match place {
            0 => env.push(("OPENAI_API_KEY".into(), MARK.into())),
            1 => args.insert(0, format!("--api-key={MARK}{end}").into()),
            2 => args.insert(0, format!("--base-url=https://user:{MARK}{user}@h.test/").into()),
            3 => args.insert(0, format!("--base-url=https://h.test/?code={MARK}{end}").into()),
            4 => args.insert(0, format!("--base-url=https://{MARK}{user}@h.test").into()),
            5 => args.insert(0, format!("--base-url=https://h.test/?code={end}{MARK}").into()),
            6 => args.insert(0, format!("--base-url=https://{user}:{MARK}@h.test").into()),
            _ => args.insert(0, format!("--base-url=ftp://h.test/?{end}{MARK}").into()),
        }
        check(args, &env, &pairs);
    }
}

fn check(args: Vec<OsString>, env: &[(String, String)], file: &[(String, String)]) {
    let look = |name: &str| env.iter().rfind(|it| it.0 == name).map(|it| it.1.clone());
    let command = config::from_sources(args, &look, file);
    let debug = format!("{command:?}");
    assert!(!debug.contains(MARK), "a secret is told: {debug}");
    match command {
        Ok((Command::Help | Command::Version, _)) => {}
        Ok((_, config)) => {
            let told = config.describe();
            // Blanks at an end are none of a variable's.
            let told: Vec<&str> = told.lines().map(str::trim_end).collect();
            let told = told.join("\n");
            assert!(!told.contains(MARK), "a secret is told: {told}");
            assert!(config.workers > 0 && config.max_body_bytes > 0);
            assert!(
                config.retry.initial_delay <= config.retry.max_delay
                    && !config.request_timeout.is_zero()
            );
            let lines: Vec<(&str, &str)> =
                told.lines().filter_map(|it| it.split_once('=')).collect();
            let look = |name: &str| lines.iter().find(|it| it.0 == name).map(|it| it.1.to_owned());
            match config::from_sources([], &look, &[]) {
                Ok((Command::Run, again)) => assert_eq!(again.describe(), told, "read back"),
                other => panic!("{told} cannot be read back: {other:?}"),
            }
        }
        Err(error) => {
            let told = error.to_string();
            assert!(!error.problems.is_empty() && !told.contains(MARK), "{told}");
            for problem in &error.problems {
                assert!(!problem.contains('\n') && problem.len() < 2048, "{problem}");
            }
        }
    }
}

/// Base URLs: what is taken can be joined and shown, and what is refused is not repeated.
pub fn base_url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let user = format!("http://{text}:{MARK}@h");
    for secret in [user, format!("http://u:{MARK}@{text}"), format!("http://h/?k={text}{MARK}")] {
        assert!(!base_url::mask_url(&secret).contains(MARK), "a secret is shown: {secret}");
    }
    let url = match BaseUrl::parse(&text) {
        Ok(url) => url,
        Err(reason) => {
            assert!(!reason.is_empty() && reason.len() < 512);
            return;
        }
    };
    assert!(!url.host().is_empty() && url.host() == url.host().to_lowercase());
    assert!(url.origin().starts_with("http://") || url.origin().starts_with("https://"));
    let models = url.endpoint_url("models", None);
    assert!(models.starts_with(url.origin()));
    assert!(models.bytes().all(|byte| byte.is_ascii_graphic()), "{models}");
    let chat = url.endpoint_url("chat/completions", Some("a/b c?d#e\u{e9}"));
    assert!(chat.bytes().all(|byte| byte.is_ascii_graphic()), "{chat}");
    let shown = url.to_string();
    let again = BaseUrl::parse(&shown).expect("what is shown can be read");
    assert_eq!(again.to_string(), shown);
    assert_eq!((again.host(), again.origin()), (url.host(), url.origin()));
    // An at sign may be part of a path or end a password.
    assert!(shown.contains('@') || base_url::mask_url(&shown) == shown, "{shown}");
}
