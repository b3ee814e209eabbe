//! The status page: three files without data, and `/status.json`, which has all that it shows.
//!
//! The files are parts of the executable. A browser keeps them and asks whether they have changed, by an
//! `ETag` of their content; their links are relative, so that a reverse proxy may put a path before them.
//! Invariant: the three files need no key and tell nothing; `/status.json` needs one where there are keys.

mod models;
mod report;

pub(super) use self::report::serve as serve_json;

use super::Context;
use crate::error::Result;
use crate::http::exchange::ContentType;

/// A file of the page.
pub(super) struct File {
    content: &'static str,
    kind: ContentType,
}

/// `/status`.
pub(super) static PAGE: File = File { content: include_str!("page.html"), kind: ContentType::HTML };

/// `/status.css`.
pub(super) static STYLE: File = File { content: include_str!("page.css"), kind: ContentType::CSS };

/// `/status.js`.
pub(super) static SCRIPT: File =
    File { content: include_str!("page.js"), kind: ContentType::JAVASCRIPT };

/// Sends a file of the page, or tells that the browser has it already.
pub(super) fn serve_file(context: &mut Context<'_>, file: &File) -> Result<()> {
    let tag = format!("\"{:016x}\"", hash(file.content.as_bytes()));
    let exchange = &mut *context.exchange;
    let is_known = exchange.header("If-None-Match").is_some_and(|known| has_tag(known, &tag));
    exchange.add_headers(vec![("Cache-Control", "no-cache".to_owned()), ("ETag", tag)]);
    match is_known {
        true => exchange.respond_empty(304),
        false => exchange.respond(200, file.kind, file.content.as_bytes()),
    }
}

/// True if `If-None-Match` has the tag; a proxy that compresses marks it as weak (RFC 9110 section 13.1.2).
fn has_tag(known: &str, tag: &str) -> bool {
    known.split(',').map(str::trim).any(|it| it == "*" || it.trim_start_matches("W/") == tag)
}

/// FNV-1a: two contents of a file differ in it, and nobody else chooses them.
fn hash(content: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    content.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_take_at_most_24_kib() {
        let sizes = [&PAGE, &STYLE, &SCRIPT].map(|file| file.content.len());
        assert!(sizes.iter().sum::<usize>() <= 24 * 1024, "{sizes:?}");
    }

    #[test]
    fn the_files_ask_no_other_server_and_by_relative_addresses_only() {
        for file in [&PAGE, &STYLE, &SCRIPT] {
            let text = file.content.replace("http://www.w3.org/2000/svg", "");
            for absolute in
                ["http:", "https:", "\"//", "url(", "href=\"/", "src=\"/", "fetch(\"/", "@import"]
            {
                assert!(!text.contains(absolute), "{absolute}");
            }
        }
        assert!(PAGE.content.contains("status.css") && PAGE.content.contains("status.js"));
    }

    #[test]
    fn a_tag_is_found_in_a_list_and_as_a_weak_one() {
        let tag = "\"12\"";
        for (known, expected) in [
            ("\"12\"", true),
            ("W/\"12\"", true),
            ("\"1\", \"12\"", true),
            ("*", true),
            ("", false),
            ("\"1\"", false),
            ("12", false),
        ] {
            assert_eq!(has_tag(known, tag), expected, "{known}");
        }
    }
}
