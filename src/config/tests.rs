//! Tables of sources and what becomes of them.

use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn sources(
    args: &[&str],
    env: Pairs<'_>,
    dotenv: Pairs<'_>,
) -> Result<(Command, Config), ConfigError> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let dotenv: Vec<_> = dotenv.iter().map(own).collect();
    let env =
        |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    from_sources(args.iter().map(OsString::from), &env, &dotenv)
}

/// The configuration for some upstream that needs no key.
#[track_caller]
fn config(args: &[&str], env: Pairs<'_>, dotenv: Pairs<'_>) -> Config {
    let base = [("OPENAI_BASE_URL", "http://upstream.test")];
    match sources(args, env, &[dotenv, &base].concat()) {
        Ok((Command::Run, config)) => config,
        other => panic!("{args:?} {env:?} {dotenv:?}: {other:?}"),
    }
}

/// The value of a variable in the description.
fn shown(config: &Config, variable: &str) -> String {
    let text = config.describe();
    let value = |line: &str| Some(line.strip_prefix(variable)?.strip_prefix('=')?.to_owned());
    text.lines().find_map(value).expect("every variable is described")
}

#[track_caller]
fn problems(args: &[&str], env: Pairs<'_>, dotenv: Pairs<'_>) -> Vec<String> {
    sources(args, env, dotenv).expect_err("something is wrong").problems
}

/// Four values of one option: the three sources in order of strength, then the default.
#[track_caller]
fn check_precedence(variable: &str, flag: &str, values: [&str; 4]) {
    let [in_flag, in_env, in_dotenv, default] = values;
    let args: &[&str] = &[flag, in_flag];
    let env: Pairs<'_> = &[(variable, in_env)];
    let dotenv: Pairs<'_> = &[(variable, in_dotenv)];
    let check = |config: Config, expected| assert_eq!(shown(&config, variable), expected);
    check(config(args, env, dotenv), in_flag);
    check(config(&[], env, dotenv), in_env);
    check(config(&[], &[], dotenv), in_dotenv);
    check(config(&[], &[], &[]), default);
    check(config(&[flag, ""], &[(variable, " \"\" ")], dotenv), in_dotenv);
}

#[test]
fn flags_win_over_environment_over_dotenv_over_defaults() {
    check_precedence("PROXY_PORT", "--port", ["1", "2", "3", "11434"]);
    check_precedence("OLLAMA_HOST", "--host", ["a:1", "b:2", "[::1]:3", "127.0.0.1:11434"]);
    let origins = ["http://a", "http://b,*", "app://*", ""];
    check_precedence("OLLAMA_ORIGINS", "--origins", origins);
    let files = ["/a", "/b", "/c", ""];
    check_precedence("PROXY_API_KEYS_FILE", "--proxy-api-keys-file", files);
    check_precedence("LOG_BODIES", "--log-bodies", ["true", "false", "true", "false"]);
    check_precedence("UPSTREAM_PROFILE", "--profile", ["vllm", "tgi", "generic", "auto"]);
    check_precedence("REQUEST_TIMEOUT", "--request-timeout", ["1.5", "2", "3", "300"]);
    check_precedence("LOG_LEVEL", "--log-level", ["TRACE", "ERROR", "WARN", "INFO"]);
    check_precedence("MAX_BODY_BYTES", "--max-body-bytes", ["1", "2", "3", "104857600"]);
    check_precedence("RETRY_MAX_MS", "--retry-max-ms", ["2001", "2002", "2003", "30000"]);
    check_precedence("OLLAMA_KEEP_ALIVE", "--keep-alive", ["-1", "2s", "3s", "300s"]);
    check_precedence("OLLAMA_CONTEXT_LENGTH", "--context-length", ["1", "2", "3", "0"]);
}

#[test]
fn virtual_models_are_kept_in_the_user_s_data_unless_said_otherwise() {
    let check = |env: Pairs<'_>, expected: Option<&str>| {
        let found = config(&[], env, &[]).state_file;
        assert_eq!(found.as_deref(), expected.map(std::path::Path::new), "{env:?}");
    };
    let (home, data) = (("HOME", "/h"), ("XDG_DATA_HOME", "/d"));
    check(&[], None);
    let in_home = "/h/.local/share/ollama-openai-proxy/state.json";
    check(&[home], Some(in_home));
    let in_data = "/d/ollama-openai-proxy/state.json";
    check(&[home, data], Some(in_data));
    check(&[home, ("XDG_DATA_HOME", "relative")], Some(in_home));
    check(&[home, ("PROXY_STATE", "/s/x.json")], Some("/s/x.json"));
    check(&[home, ("PROXY_STATE", "~/x.json")], Some("/h/x.json"));
    check(&[("PROXY_STATE", "é.json")], Some("é.json"));
    check(&[data, ("PROXY_STATE", parsers::DEFAULT_STATE_FILE)], Some(in_data));
    let told = problems(&["--state=a\nb", "--api-key=k"], &[], &[]);
    let expected = "expected the path of a file, such as /var/lib/proxy/state.json";
    assert!(told[0].ends_with(expected));
    assert_eq!(Config::for_base_url("http://h").expect("a URL").state_file, None);
}

#[test]
fn the_last_value_that_is_not_empty_wins_within_a_source() {
    let port = |args: &[&str], dotenv: Pairs<'_>| config(args, &[], dotenv).port;
    assert_eq!(port(&["--port=1", "--port=2", "--port="], &[]), 2);
    assert_eq!(port(&[], &[("PROXY_PORT", "1"), ("PROXY_PORT", "2"), ("PROXY_PORT", "")]), 2);
}

#[test]
fn the_first_wait_may_be_the_longest_and_zero_tokens_are_none() {
    let config = config(&["--retry-max-ms=1000", "--context-length=0"], &[], &[]);
    assert_eq!(config.retry.max_delay, config.retry.initial_delay);
    assert_eq!(config.context_length, None);
}

#[test]
fn the_base_url_has_an_alias_that_is_weaker_only_within_its_source() {
    let both: Pairs<'_> = &[("OPENAI_BASE_URL", "http://b"), ("OPENAI_API_BASE_URL", "http://a")];
    assert_eq!(config(&[], both, &[]).upstream.base_url.host(), "a");
    assert_eq!(config(&[], &both[..1], &both[1..]).upstream.base_url.host(), "b");
    assert_eq!(config(&["--base-url", "http://c"], both, both).upstream.base_url.host(), "c");
}

#[test]
fn the_context_length_has_a_second_name() {
    let both: Pairs<'_> = &[("MODEL_CONTEXT_LENGTH", "1"), ("OLLAMA_CONTEXT_LENGTH", "2")];
    assert_eq!(config(&[], &both[..1], &[]).context_length, Some(1));
    assert_eq!(config(&[], both, &[]).context_length, Some(2));
    assert_eq!(config(&[], &both[..1], &both[1..]).context_length, Some(1));
}

#[test]
fn a_family_that_nobody_knows_is_an_error_that_lists_the_names() {
    let told = problems(&["--profile=lama", "--api-key=k"], &[], &[]);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("--profile is \"lama\": expected auto or one of "), "{told:?}");
    assert!(told[0].contains(", llamacpp,") && told[0].ends_with(", generic"), "{told:?}");
}

#[test]
fn a_given_port_overrides_the_one_of_the_host() {
    let check = |args: &[&str], env: Pairs<'_>, dotenv: Pairs<'_>, host: &str, port| {
        let config = config(args, env, dotenv);
        assert_eq!((config.host.as_str(), config.port), (host, port), "{args:?} {env:?}");
    };
    check(&[], &[("OLLAMA_HOST", "0.0.0.0:5"), ("PROXY_PORT", "6")], &[], "0.0.0.0", 6);
    check(&["--host", "a:5"], &[], &[("PROXY_PORT", "6")], "a", 6);
    check(&["--port=7", "--host=http://a"], &[], &[], "a", 7);
    check(&["--host=http://a"], &[], &[], "a", 80);
    check(&[], &[("OLLAMA_HOST", ":0")], &[], "", 0);
    check(&[], &[("PROXY_PORT", "6")], &[], "127.0.0.1", 6);
}

#[test]
fn the_log_level_is_stronger_than_ollamas_debug_switch() {
    let level = |env: Pairs<'_>, dotenv: Pairs<'_>| config(&[], env, dotenv).log_level;
    assert_eq!(level(&[("OLLAMA_DEBUG", "1")], &[]), LevelFilter::Debug);
    assert_eq!(level(&[], &[("OLLAMA_DEBUG", "2")]), LevelFilter::Trace);
    assert_eq!(level(&[("OLLAMA_DEBUG", "2")], &[("LOG_LEVEL", "warn")]), LevelFilter::Warn);
    assert_eq!(level(&[("OLLAMA_DEBUG", "")], &[]), LevelFilter::Info);
}

#[test]
fn all_problems_are_told_together_each_with_its_name_value_and_what_is_allowed() {
    let told = problems(
        &["--port", "abc", "--workers=0", "--retry-max-ms=500"],
        &[("RETRY_MAX", "11"), ("OPENAI_BASE_URL", "localhost:8080/v1")],
        &[("REQUEST_TIMEOUT", "5m\n")],
    );
    assert_eq!(
        told,
        [
            "OPENAI_BASE_URL is \"localhost:8080/v1\": must start with http:// or https://, as \
             in https://api.openai.com/v1 or http://localhost:8080/v1",
            "--port is \"abc\": expected a whole number from 0 to 65535",
            "REQUEST_TIMEOUT in .env is \"5m\": expected seconds above 0 and up to 86400, such \
             as 300 or 0.5",
            "--workers is \"0\": expected a whole number from 1 to 4096",
            "RETRY_MAX is \"11\": expected a whole number from 0 to 10",
            "RETRY_MAX_MS (500) must not be below RETRY_INITIAL_MS (1000)",
        ]
    );
    let error = ConfigError { problems: told };
    assert_eq!(error.to_string().lines().count(), 6);
    // A malformed command line is reported alone, without what follows from it.
    let told = problems(&["--port", "abc"], &[], &[]);
    assert_eq!(told, ["--port is \"abc\": expected a whole number from 0 to 65535"]);
    let told = problems(&["--port", "abc", "--nonsense", "--check=1"], &[], &[]);
    assert_eq!(told, ["unknown option --nonsense (see --help)", "--check takes no value"]);
}

#[test]
fn every_row_refuses_or_survives_text_that_was_not_utf8() {
    for row in OPTIONS.iter().filter(|row| row.default_text() != "false") {
        let env: Pairs<'_> = &[(row.variable, "1\u{fffd}")];
        match sources(&[], env, &[("OPENAI_API_KEY", "k")]) {
            Err(error) => assert!(error.problems[0].starts_with(row.variable), "{error}"),
            Ok((Command::Run, config)) => assert_eq!(config.warnings.len(), 1, "{config:?}"),
            Ok(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn long_and_many_lined_values_take_one_line() {
    let told = problems(&[], &[("OPENAI_API_KEY", "k"), ("PROXY_PORT", &"é\n".repeat(500))], &[]);
    assert_eq!(told.len(), 1);
    assert!(told[0].len() < 300 && !told[0].contains('\n'), "{told:?}");
}

#[test]
fn openai_needs_a_key_and_others_do_not() {
    let told = problems(&[], &[], &[]);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("export OPENAI_API_KEY"), "{told:?}");
    assert_eq!(problems(&["--base-url=https://API.openai.com:443/v2"], &[], &[]), told);
    assert!(sources(&["--api-key=k"], &[], &[]).is_ok());
    assert!(sources(&["--base-url=http://h"], &[], &[]).is_ok());
    for env in [
        ("OPENAI_API_KEY_FILE", "/run/secrets/key"),
        ("PASS_CLIENT_KEY", "true"),
        ("UPSTREAM_HEADERS", "Authorization: Token k"),
    ] {
        assert!(sources(&[], &[env], &[]).is_ok(), "{env:?}");
    }
    let both = [("OPENAI_API_KEY", "k"), ("UPSTREAM_HEADERS", "authorization: Token k")];
    let told_twice = problems(&[], &both, &[]);
    assert!(told_twice[0].starts_with("OPENAI_API_KEY and Authorization in UPSTREAM_HEADERS"));
    let bad_key = problems(&[], &[("OPENAI_API_KEY", "two words")], &[]);
    assert!(bad_key.len() == 1 && bad_key[0].starts_with("OPENAI_API_KEY is ***: "));
    let bad_url = problems(&["--base-url=h"], &[], &[]);
    assert!(bad_url.len() == 1 && bad_url[0].starts_with("--base-url is "), "{bad_url:?}");
}

#[test]
fn no_secret_is_ever_shown() {
    let good = config(
        &[],
        &[("OPENAI_API_KEY", "s3cret-77"), ("OPENAI_BASE_URL", "http://h/v1?key=s3cret-77")],
        &[("OLLAMA_KEEP_ALIVE", "s3cret-77"), ("OLLAMA_HOST", "h:s3cret-77")],
    );
    assert_eq!(good.upstream.api_key.as_ref().map(Secret::expose), Some("s3cret-77"));
    assert_eq!(good.warnings.len(), 2);
    assert_eq!(shown(&good, "OPENAI_API_KEY"), "***");
    assert_eq!(shown(&good, "OPENAI_API_BASE_URL"), "http://h/v1?key=***");
    let mut told = vec![good.describe(), format!("{good:?}"), format!("{:?}", good.warnings)];

    for key in ["s3cret-77", "s3cret-77 with blanks", "s3cr\u{e9}t-77"] {
        for (args, least) in [
            (&["--port", key, "--nonsense", key, key, "--check=s3cret-77"][..], 3),
            (&["--port", key, "--host=me:s3cret-77@h"], 4),
        ] {
            let error = sources(
                args,
                &[("OPENAI_API_KEY", key), ("LOG_LEVEL", key), ("RETRY_MAX", "s3cret-77@")],
                &[("OPENAI_BASE_URL", "http://me:s3cret-77@h/v1?s3cret-77#s3cret-77")],
            )
            .expect_err("nearly everything is wrong");
            assert!(error.problems.len() >= least, "{error}");
            told.extend([error.to_string(), format!("{error:?}")]);
        }
    }
    for text in told {
        assert!(!text.contains("s3cr"), "{text}");
    }
}

#[test]
fn keys_of_those_who_may_ask_are_never_shown() {
    let good = config(
        &["--proxy-api-keys=s3cret-one, s3cret-two", "--keep-alive=s3cret-two"],
        &[("PROXY_API_KEYS_FILE", "~/keys"), ("HOME", "/h")],
        &[],
    );
    assert_eq!(good.proxy_api_keys.secrets().count(), 2);
    assert_eq!(shown(&good, "PROXY_API_KEYS"), "***");
    assert_eq!(shown(&good, "PROXY_API_KEYS_FILE"), "/h/keys");
    assert_eq!(shown(&config(&[], &[], &[]), "PROXY_API_KEYS"), "");
    let mut told = vec![good.describe(), format!("{good:?}")];
    let shown = good.redactor().redact("s3cret-one s3cret-two").into_owned();
    assert_eq!(shown, "*** ***");
    let bad = problems(
        &["--proxy-api-keys=s3cret one,s3cret-two", "--port=s3cret-two", "--api-key=k"],
        &[("PROXY_API_KEYS_FILE", "/s\n3")],
        &[],
    );
    assert_eq!(bad.len(), 3, "{bad:?}");
    assert!(bad[1].starts_with("--proxy-api-keys is ***: expected 1 to 10000 keys "), "{bad:?}");
    assert!(bad[2].starts_with("PROXY_API_KEYS_FILE is "), "{bad:?}");
    told.extend(bad);
    for text in told {
        assert!(!text.contains("s3cr"), "{text}");
    }
}

#[test]
fn a_log_of_bodies_is_a_warning() {
    let warnings = |args: &[&str]| config(args, &[], &[]).warnings.join("|");
    assert_eq!(warnings(&["--log-level=trace"]), "");
    let both = warnings(&["--log-bodies=1", "--log-level=trace"]);
    assert_eq!(both, "LOG_BODIES is on: prompts and responses are logged");
    let alone = warnings(&["--log-bodies=true"]);
    assert_eq!(alone, "LOG_BODIES has no effect unless LOG_LEVEL is trace");
}

#[test]
fn odd_values_that_ollama_accepts_are_warnings() {
    let config = config(&["--keep-alive=soon"], &[("OLLAMA_HOST", ":66000")], &[]);
    assert_eq!((config.port, config.keep_alive), (11434, Config::default().keep_alive));
    let [host, keep_alive] = config.warnings.as_slice() else {
        panic!("{:?}", config.warnings);
    };
    assert!(host.starts_with("OLLAMA_HOST is \":66000\": "), "{host}");
    assert!(host.ends_with("; using 11434"), "{host}");
    assert!(keep_alive.starts_with("--keep-alive is \"soon\": "), "{keep_alive}");
    assert!(keep_alive.ends_with("; using 5m"), "{keep_alive}");
}

#[test]
fn the_description_can_be_read_back() {
    let check = |args: &[&str]| {
        let text = config(args, &[], &[]).describe();
        let pairs: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
        assert_eq!(config(&[], &pairs, &[]).describe(), text);
    };
    check(&[]);
    check(&["--host=[::1]", "--keep-alive=-5s", "--request-timeout=0.125", "--log-level=trace"]);
    check(&["--host=localhost:0", "--keep-alive=0"]);
    check(&["--host=:80", "--keep-alive=1h", "--max-body-bytes=1G", "--context-length=8192"]);
    check(&["--origins=http://a.test, chrome-extension://*,*"]);
    check(&["--config=~/proxy.toml"]);
    check(&["--api-key=k", "--base-url=http://[::1]:8080/v1?a=b", "--retry-max=0"]);
}

#[test]
fn what_only_a_restart_changes_is_named() {
    let old = config(&[], &[], &[]);
    assert_eq!(old.unreloadable_changes(&old), [""; 0]);
    let new = config(&["--workers=7", "--retry-max=1", "--shutdown-grace=2"], &[], &[]);
    assert_eq!(old.unreloadable_changes(&new), ["PROXY_WORKERS", "SHUTDOWN_GRACE"]);
    let new = config(&["--host=0.0.0.0", "--max-queue=1"], &[], &[]);
    assert_eq!(old.unreloadable_changes(&new), ["OLLAMA_HOST", "OLLAMA_MAX_QUEUE"]);
}

#[test]
fn options_of_containers_can_be_read_back() {
    let env = [
        ("OPENAI_API_KEY_FILE", "/run/secrets/key"),
        ("PASS_CLIENT_KEY", "true"),
        ("UPSTREAM_CA_FILE", "/ca.pem"),
        ("UPSTREAM_CLIENT_CERT_FILE", "/c.pem"),
        ("UPSTREAM_CLIENT_KEY_FILE", "/k.pem"),
        ("UPSTREAM_TLS_VERIFY", "false"),
        ("UPSTREAM_MODELS", "a,b/c:d"),
        ("MODEL_ALIASES", "x=a,y:7b=lab/b"),
    ];
    let set = config(&[], &env, &[]);
    for (variable, value) in env {
        assert_eq!(shown(&set, variable), value);
    }
    let tls = &set.upstream.tls;
    assert_eq!(tls.client_key_file.as_deref(), Some(std::path::Path::new("/k.pem")));
    assert_eq!((set.models.len(), set.warnings.len()), (2, 1), "{:?}", set.warnings);
    for secret in
        ["OPENAI_ORGANIZATION", "OPENAI_PROJECT", "UPSTREAM_HEADERS", "UPSTREAM_EXTRA_BODY"]
    {
        let value = match secret {
            "UPSTREAM_HEADERS" => "X-A: s3cret-77",
            "UPSTREAM_EXTRA_BODY" => "{\"a\":1}",
            _ => "s3cret-77",
        };
        let set = config(&[], &[(secret, value)], &[]);
        assert_eq!(shown(&set, secret), "***");
        let others = set.describe().lines().filter(|line| line.ends_with("=***")).count();
        assert_eq!(others, 1, "{secret} alone is set");
        assert!(
            !set.redactor().redact("it is s3cret-77").contains("s3cret")
                || secret.ends_with("BODY")
        );
    }
}

#[test]
fn the_command_follows_the_flags() {
    assert!(matches!(sources(&["--help", "--port=x"], &[], &[]), Ok((Command::Help, _))));
    assert!(matches!(sources(&["-V"], &[], &[]), Ok((Command::Version, _))));
    assert!(matches!(sources(&["--check", "--api-key=k"], &[], &[]), Ok((Command::Check, _))));
    assert!(matches!(sources(&["--api-key=k"], &[], &[]), Ok((Command::Run, _))));
}

#[test]
fn an_embedded_server_listens_on_a_free_loopback_port() {
    let config = Config::for_base_url("http://127.0.0.1:9/v1").expect("a base URL");
    assert_eq!(config.listen_addr(), ("127.0.0.1".to_owned(), 0));
    assert_eq!(config.upstream.base_url.join("models"), "http://127.0.0.1:9/v1/models");
    let error = Config::for_base_url("http://me:s3cret@h:x").expect_err("has no port");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    let everywhere = Config { host: String::new(), ..config };
    assert_eq!(everywhere.listen_addr(), ("::".to_owned(), 0));
}
