//! The house rules that a program can check, by reading the sources.

use std::fs;
use std::path::{Path, PathBuf};

use ollama_openai_proxy::backends::profiles;
use ollama_openai_proxy::config;
use ollama_openai_proxy::upstream::base_url::BaseUrl;

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder, with its path from the root.
pub(super) fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path: PathBuf = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path.strip_prefix(root()).expect("below the root");
                let name = name.to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The source without its tests and its comments.
pub(super) fn code(source: &str) -> String {
    let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    for (name, source) in files("src", ".rs").into_iter().chain(files("tests", ".rs")) {
        assert!(source.starts_with("//!"), "{name}");
    }
}

#[test]
fn files_and_lines_stay_short() {
    for (name, source) in
        files("src", ".rs").into_iter().filter(|(name, _)| !name.ends_with("/tests.rs"))
    {
        let lines = code(&source).lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 400, "{name} has {lines} lines of code");
    }
}

#[test]
fn running_code_does_not_unwrap() {
    for (name, source) in files("src", ".rs") {
        assert!(!code(&source).contains(".unwrap()"), "{name}");
    }
}

/// What stands between two comments in the README, with the comments cut off.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).expect(begin);
    rest.split_once(end).expect(end).0
}

/// The README's option table, without a line break at the end.
fn option_table() -> String {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let mut text = "| Variable | Flag | Default | Meaning |\n| --- | --- | --- | --- |".to_owned();
    for row in config::OPTIONS {
        let variables = row.variables().map(code).collect::<Vec<_>>().join(" or ");
        let flag = row.flag().map(|flag| format!("--{flag}")).unwrap_or_default();
        let (flag, default) = (code(&flag), code(&row.default_text()));
        text += &format!("\n| {variables} | {flag} | {default} | {} |", row.help);
    }
    text
}

#[test]
fn the_markdown_table_has_a_line_per_row_and_four_cells_each() {
    let table = option_table();
    assert_eq!(table.lines().count(), config::OPTIONS.len() + 2);
    for line in table.lines() {
        assert_eq!(line.matches('|').count(), 5, "{line}");
    }
    assert!(table.contains(
        "| `OPENAI_API_BASE_URL` or `OPENAI_BASE_URL` | `--base-url` | \
         `https://api.openai.com/v1` | The OpenAI-compatible server; without a path, `/v1` is \
         added. |"
    ));
    assert!(table.contains("| `OPENAI_API_KEY` | `--api-key` |  | "));
    assert!(table.contains("| `OLLAMA_DEBUG` |  | `false` | "));
}

/// `UPDATE_README=1 cargo test --test it the_readme_tells` writes the generated parts anew.
#[test]
fn the_readme_tells_what_the_program_prints() {
    let file = format!("```toml\n{}\n```", config::file_reference());
    for (document, name, text) in
        [("README.md", "options", option_table()), ("scripts/deploy/README.md", "file", file)]
    {
        let path = root().join(document);
        let mut readme = fs::read_to_string(&path).expect("a README");
        let [begin, end] = [format!("<!-- {name} -->\n"), format!("\n<!-- /{name} -->")];
        if std::env::var_os("UPDATE_README").is_some() {
            let old = format!("{begin}{}{end}", between(&readme, &begin, &end));
            readme = readme.replace(&old, &format!("{begin}{text}{end}"));
            fs::write(&path, &readme).expect("written");
        }
        let found = between(&readme, &begin, &end);
        assert_eq!(found, text, "run `UPDATE_README=1 cargo test --test it the_readme_tells`");
    }
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    assert!(readme.contains(env!("CARGO_PKG_VERSION")), "the version is not named");
}

/// The cells of the table of backends, each without its back ticks.
fn backends() -> Vec<[String; 5]> {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let section = between(&readme, "## Your backend\n", "\n## ");
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    let cells = |row: &str| row.split('|').map(|it| it.trim().replace('`', "")).collect::<Vec<_>>();
    let cells = rows.map(|row| cells(row)[1..6].to_vec().try_into().expect("five cells"));
    cells.collect()
}

#[test]
fn the_table_of_backends_agrees_with_the_profiles() {
    let rows = backends();
    let named: Vec<&str> = rows.iter().map(|[_, _, _, profile, _]| profile.as_str()).collect();
    let (mut named_sorted, mut known) = (named.clone(), profiles::names());
    named_sorted.sort_unstable();
    known.sort_unstable();
    assert_eq!(named_sorted, known, "each profile has one row");
    for [name, url, key, profile, note] in &rows {
        let row = profiles::find_by_name(profile).expect("a profile");
        assert_eq!(note.contains("one model"), row.ignores_model, "{name}: {note}");
        assert_eq!(note.contains("no penalties"), row.penalties.is_empty(), "{name}: {note}");
        let Ok(url) = BaseUrl::parse(url) else {
            assert_eq!(profile, "generic", "{name} has no base URL");
            continue;
        };
        let found = profiles::find_by_host(url.host()).map(|profile| profile.name);
        // A server of one's own may have any host.
        let has_hosts = url.is_https();
        assert_eq!(found, has_hosts.then_some(profile.as_str()), "{name}");
        assert_eq!(has_hosts, key.ends_with("_API_KEY"), "{name}: {key}");
    }
}

#[test]
fn the_readme_stays_short() {
    let length = fs::metadata(root().join("README.md")).expect("a README").len();
    assert!(length <= 14 * 1024, "README.md has {length} bytes; details belong into rustdoc");
}

/// The name that a heading has in links.
fn anchor_of(title: &str) -> String {
    let kept = title.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_between_documents_lead_somewhere() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let mut documents = vec![("README.md".to_owned(), readme)];
    documents.extend(["scripts", "tests"].into_iter().flat_map(|folder| files(folder, ".md")));
    for (name, text) in documents {
        let folder = root().join(&name).parent().expect("a folder").to_path_buf();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let is_url = target.contains("://");
            assert!(is_url || folder.join(target).exists(), "{name} links to {link}");
            let Some((_, anchor)) = link.split_once('#').filter(|_| !is_url) else { continue };
            let path = if target.is_empty() { root().join(&name) } else { folder.join(target) };
            let text = fs::read_to_string(path).expect("a document");
            let mut titles =
                text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
            assert!(titles.any(|title| anchor_of(title) == anchor), "{name} links to {link}");
        }
    }
}

#[test]
fn the_top_level_holds_what_the_house_allows() {
    let allowed =
        ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "scripts", "src", "target", "tests"];
    for entry in fs::read_dir(root()).expect("a folder") {
        let name = entry.expect("readable").file_name().to_string_lossy().into_owned();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn scripts_are_executable_and_say_what_they_are_for() {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(root().join("scripts")).expect("a folder") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        if text.starts_with("#!") {
            let mode = fs::metadata(&path).expect("readable").permissions().mode();
            assert_ne!(mode & 0o111, 0, "{} is not executable", path.display());
            let second = text.lines().nth(1).unwrap_or_default();
            assert!(second.starts_with("# ") || second.starts_with("\"\"\""), "{}", path.display());
        }
    }
}

#[test]
fn the_readme_of_the_tests_names_every_file() {
    let readme = fs::read_to_string(root().join("tests/README.md")).expect("a README");
    for (name, _) in files("tests/it", ".rs") {
        let name = name.trim_start_matches("tests/it/");
        assert!(name.ends_with("mod.rs") || readme.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_test_file_is_part_of_the_program() {
    for (name, _) in files("tests/it", ".rs") {
        let (folder, file) = name.rsplit_once('/').expect("a folder");
        let parent = if file == "mod.rs" { continue } else { folder };
        let list = ["mod.rs", "main.rs"].map(|it| root().join(parent).join(it));
        let lists = list.iter().filter_map(|it| fs::read_to_string(it).ok()).collect::<String>();
        let module = file.trim_end_matches(".rs");
        let known = file == "main.rs" || lists.contains(&format!("mod {module};"));
        assert!(known, "{name}");
    }
}
