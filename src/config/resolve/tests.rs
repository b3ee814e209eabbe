//! Files beside the other sources.

use std::ffi::OsString;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// The configuration of a file beside flags and an environment, and what is wrong.
fn with_file(args: &[&str], env: Pairs<'_>, text: &str) -> (Config, Vec<String>) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("proxy-resolve-{}-{number}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, text).expect("a file");
    let config = format!("--config={}", path.display());
    let args = args.iter().map(|arg| (*arg).to_owned()).chain([config]);
    let line = CommandLine::parse(args.map(OsString::from));
    let env =
        |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    let sources = Sources { line: &line, env: &env, dotenv: &[] };
    let (config, problems) = resolve(&sources, Some(SystemTime::UNIX_EPOCH));
    fs::remove_file(&path).expect("there");
    let prefix = format!("{}:", path.display());
    (config, problems.iter().map(|it| it.trim_start_matches(&prefix).to_owned()).collect())
}

#[track_caller]
fn good(args: &[&str], env: Pairs<'_>, text: &str) -> Config {
    let (config, problems) = with_file(args, env, text);
    assert_eq!(problems, [""; 0], "{args:?} {env:?} {text}");
    config
}

const LAB: &str = "[[upstream]]\nname = \"lab\"\nbase_url = \"http://lab.test\"\n";

#[test]
fn an_option_of_the_file_gives_way_to_the_same_one_elsewhere_and_to_those_that_it_refines() {
    let text =
        format!("[server]\nport = 5\nlog-level = \"warn\"\nworkers = 3\nmax-queue = 4\n{LAB}");
    let config = good(&["--workers=7"], &[("OLLAMA_MAX_QUEUE", "8")], &text);
    assert_eq!((config.workers, config.max_queue, config.port), (7, 8, 5));
    assert_eq!(config.log_level, LevelFilter::Warn);
    let port = |args: &[&str], env: Pairs<'_>| good(args, env, &text).port;
    assert_eq!(port(&["--host=127.0.0.1:6"], &[]), 6);
    assert_eq!(port(&[], &[("OLLAMA_HOST", "[::1]:6")]), 6);
    assert_eq!(port(&[], &[("OLLAMA_HOST", "http://h")]), 80);
    assert_eq!(port(&[], &[("OLLAMA_HOST", "0.0.0.0")]), 5);
    assert_eq!(port(&[], &[("OLLAMA_HOST", "::1")]), 5);
    assert_eq!(port(&[], &[("PROXY_PORT", "7"), ("OLLAMA_HOST", "h:6")]), 7);
    let debug = good(&[], &[("OLLAMA_DEBUG", "1")], &text);
    assert_eq!(debug.log_level, LevelFilter::Debug);
    let both = good(&[], &[], &format!("[server]\nport = 5\nhost = \"h:6\"\n{LAB}"));
    assert_eq!((both.host.as_str(), both.port), ("h", 5));
}

#[test]
fn an_upstream_of_the_file_needs_no_key_of_the_environment() {
    let config = good(&[], &[], LAB);
    assert_eq!((config.servers().len(), config.servers()[0].name.as_str()), (1, "lab"));
    assert_eq!(config.warnings.len(), 0, "{:?}", config.warnings);
    assert!(!config.describe().contains("OPENAI_API_BASE_URL"));
    let (_, problems) = with_file(&[], &[], "[server]\nworkers = 3\n");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("OPENAI_API_KEY is not set"), "{problems:?}");
    let (_, problems) =
        with_file(&[], &[], &LAB.replace("http://lab.test", "https://api.openai.com"));
    assert_eq!(problems, ["3: api.openai.com needs api_key or api_key_file"]);
}

#[test]
fn options_that_describe_an_upstream_are_ignored_beside_one_of_the_file_even_wrong_ones() {
    let env = [("OPENAI_API_KEY", "a s3cret"), ("UPSTREAM_TLS_VERIFY", "maybe")];
    let text = format!("[server]\nprofile = \"nonsense\"\n{LAB}");
    let config = good(&["--base-url=nonsense"], &env, &text);
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    for name in ["OPENAI_API_KEY", "--base-url", "UPSTREAM_TLS_VERIFY", ".toml:2: profile"] {
        assert!(warning.contains(name), "{name} in {warning}");
    }
    assert!(!warning.contains("s3cret"), "{warning}");
    assert!(config.upstream.tls.verify && config.upstream.api_key.is_none());
    // Without one, they count.
    let config =
        good(&[], &[("OPENAI_API_BASE_URL", "http://env.test")], "[server]\nworkers = 3\n");
    assert_eq!(config.servers()[0].base_url.host(), "env.test");
    let config = good(&[], &[], "[server]\nbase-url = \"http://file.test\"\n");
    assert_eq!(config.servers()[0].base_url.host(), "file.test");
}

#[test]
fn mistakes_of_options_and_of_the_file_are_told_together_by_line() {
    let text = format!(
        "{LAB}timeout = 0\n[server]\nworkers = 0\nstate = \"a\\nb\"\nport = \"${{KEY}}\"\n"
    );
    let env = [("RETRY_MAX", "x"), ("KEY", "s3cret-value")];
    let (_, problems) = with_file(&["--port=x"], &env, &text);
    let expected = [
        "--port is \"x\": ",
        "RETRY_MAX is \"x\": ",
        "4: timeout: ",
        "6: workers is \"0\": ",
        "7: state is \"a\\nb\": ",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, words) in problems.iter().zip(expected) {
        assert!(problem.starts_with(words), "{problem}");
    }
    let (_, problems) = with_file(&[], &env[1..], &text);
    assert!(problems.iter().any(|it| it.starts_with("8: port is ***: expected")), "{problems:?}");
}

#[test]
fn aliases_stand_for_a_model_of_any_upstream_or_of_the_one_that_they_name() {
    let text = format!(
        "{LAB}[[model]]\nname = \"a\"\nuse = [\"lab/x\"]\n[[model]]\nname = \"b\"\nuse = [\"lab/y\"]\n"
    );
    let aliases = [("MODEL_ALIASES", "B:latest=lab/z,c=meta/llama,d=plain")];
    let config = good(&[], &aliases, &text);
    let shown: Vec<_> = config
        .models
        .iter()
        .map(|it| {
            (it.model.name.as_str(), it.targets[0].upstream.as_deref(), it.targets[0].id.as_str())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("a:latest", Some("lab"), "x"),
            ("B:latest", Some("lab"), "z"),
            ("c:latest", None, "meta/llama"),
            ("d:latest", None, "plain"),
        ]
    );
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    assert!(warning.starts_with("MODEL_ALIASES replaces the model \"B:latest\""), "{warning}");
    assert!(config.models.iter().all(|it| it.model.validate().is_ok()));
}

#[test]
fn every_secret_is_masked_and_an_unchecked_certificate_is_a_warning() {
    let text = format!(
        "{LAB}api_key = \"${{KEY}}\"\nheaders = {{ X-Token = \"header-s3cret\" }}\ntls_verify = false\n\
         extra_body = {{ a = \"${{BODY}}\" }}\nproxy = \"http://me:pr0xy-s3cret@p:1\"\n"
    );
    let config = good(&[], &[("KEY", "key-s3cret"), ("BODY", "body-s3cret")], &text);
    let said =
        config.redactor().redact("key-s3cret header-s3cret body-s3cret pr0xy-s3cret").into_owned();
    assert_eq!(said, "*** *** *** ***");
    let shown = config.redactor().redact(&format!("{config:?}")).into_owned();
    assert!(!shown.contains("s3cret"), "{shown}");
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    assert_eq!(warning, "the certificate of upstream \"lab\" is not checked (tls_verify is false)");
}

#[test]
fn authorities_of_the_machine_hold_for_all_upstreams() {
    let env = [("SSL_CERT_FILE", "/a.pem"), ("SSL_CERT_DIR", "~/b"), ("HOME", "/h")];
    let tls = |config: &Config| config.servers()[0].tls.clone();
    let expected = TlsSettings {
        system_ca_file: Some("/a.pem".into()),
        system_ca_dir: Some("/h/b".into()),
        ..TlsSettings::default()
    };
    assert_eq!(tls(&good(&[], &env, LAB)), expected);
    assert_eq!(tls(&good(&["--base-url=http://h"], &env, "")), expected);
}
