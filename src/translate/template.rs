//! Checks the block structure of a prompt template, Go's `text/template`.
//!
//! The upstream renders prompts, so a template is never executed here; it is checked only so that a
//! template that breaks off is refused as Ollama refuses it. Delimiters must balance and blocks must
//! close. Function names, variables and constants are not checked: Ollama refuses more templates.
//! Invariant: no template that Go accepts is refused, and time grows linearly with the text.

/// An offset into the template and what is wrong there, in Go's words.
type Fault = (usize, &'static str);

/// Checks that every action and every block of a template is closed.
///
/// # Errors
/// A text in the form of Go's parser: `template: :1: unexpected "}" in operand`.
pub fn check(text: &str) -> Result<(), String> {
    check_blocks(text).map_err(|(offset, reason)| {
        let line = 1 + text[..offset].matches('\n').count();
        format!("template: :{line}: {reason}")
    })
}

fn check_blocks(text: &str) -> Result<(), Fault> {
    // One entry for each open block: whether an `else` may follow.
    let mut open = Vec::new();
    let mut at = 0;
    while let Some(length) = text[at..].find("{{") {
        let action = at + length + 2;
        at = action_end(text, action)?;
        let mut words = skip_marker(&text[action..at]).split(|c: char| !is_word(c));
        match words.next() {
            Some("if" | "range" | "with") => open.push(true),
            Some("block" | "define") => open.push(false),
            Some("end") if open.pop().is_none() => return Err((at, "unexpected {{end}}")),
            Some("else") => match open.last_mut() {
                Some(accepts_else @ true) => {
                    let next = words.find(|word| !word.is_empty());
                    *accepts_else = matches!(next, Some("if" | "with"));
                }
                _ => return Err((at, "unexpected {{else}}")),
            },
            _ => {}
        }
    }
    if open.is_empty() { Ok(()) } else { Err((text.len(), "unexpected EOF")) }
}

/// The offset behind the `}}` of the action whose inside starts at `start`.
fn action_end(text: &str, start: usize) -> Result<usize, Fault> {
    let inside = skip_marker(&text[start..]);
    let mut at = text.len() - inside.len();
    if inside.starts_with("/*") {
        at += 2;
        at += text[at..].find("*/").ok_or((at, "unclosed comment"))? + 2;
    }
    loop {
        at = match text.as_bytes()[at..] {
            [] => return Err((at, "unclosed action")),
            [b'}', b'}', ..] => return Ok(at + 2),
            [b'}', ..] => return Err((at, "unexpected \"}\" in operand")),
            [b'{', ..] => return Err((at, "unexpected \"{\" in operand")),
            [quote @ (b'"' | b'\''), ..] => quoted_end(text, at + 1, quote)?,
            [b'`', ..] => {
                let length = text[at + 1..].find('`');
                at + length.ok_or((at, "unterminated raw quoted string"))? + 2
            }
            _ => at + 1,
        };
    }
}

/// The offset behind the closing `quote` of a string whose inside starts at `at`.
fn quoted_end(text: &str, mut at: usize, quote: u8) -> Result<usize, Fault> {
    loop {
        match text.as_bytes()[at..] {
            [byte, ..] if byte == quote => return Ok(at + 1),
            [] | [b'\n', ..] | [b'\\'] | [b'\\', b'\n', ..] => {
                return Err((at, "unterminated quoted string"));
            }
            [b'\\', ..] => at += 2,
            _ => at += 1,
        }
    }
}

/// An action without its leading trim marker and blanks.
fn skip_marker(action: &str) -> &str {
    action.strip_prefix('-').unwrap_or(action).trim_start_matches([' ', '\t', '\r', '\n'])
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tool calls, branches, nested templates, comments and trim markers, as published templates
    /// combine them.
    const LARGE: &str = r#"{{- /* Tools come before the first message. */ -}}
{{- define "turn" }}{{ .Role }}: {{ .Content }}
{{ end -}}
{{- if or .System .Tools }}<|start_header_id|>system<|end_header_id|>
Today is {{ currentDate }}, yesterday was {{ yesterdayDate "2006-01-02" }}.
Answer with {"name": function, "parameters": object}.
{{- range .Tools }}{{ json .Function }}
{{- range $name, $property := .Function.Parameters.Properties }}
// {{ $name }}: {{ toTypeScriptType $property }}
{{- end }}
{{- end }}<|eot_id|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}{{ .Content }}{{ if $last }}<|start_header_id|>{{ end }}
{{- else if and (eq .Role "tool") (not $last) }}
{{ .Content | printf "%q" }}{{ 'x' | printf "%c" }}{{ template "turn" . }}
{{- else }}
{{- with $m := (index $.Messages $i) }}{{ $m.Content }}{{ else with .Thinking }}{{ . }}{{ end }}
{{- break }}
{{- end }}
{{- end }}
{{- block "ask" . }}{{ `User: }} ` }}{{ .Prompt | html }}{{ end }}"#;

    #[test]
    fn templates_that_go_accepts_are_accepted() {
        for template in [
            "",
            "no action at all, } and }} included",
            "a { b",
            "{{.System}} {{.Prompt}}",
            "{{ (index .Messages 0).Content }}{{ .X | }}",
            "[INST] {{ if and .First .System }}<<SYS>>{{ .System }}{{ end }}{{ .Prompt }}[/INST]",
            // Trim markers and blanks.
            "a {{- .X -}} b{{-\n.X\n-}}{{-   .X   -}}{{- -3 -}}{{\n.X\n}}{{(.X) -}}",
            "{{if .X}}{{- end}}{{ if true }}{{ end -}}",
            // Comments.
            "{{/* a }} b */}}{{/**/}}{{/*\n\n*/}}a {{- /* \" */ -}} c{{/* if */}}{{ .X }}",
            // Delimiters and words inside of constants; names that begin like keywords.
            r#"{{ "" }}{{ "}}" }}{{ "{{" }}{{ "end" }}{{ "a\"b\\" }}{{ '"' }}{{ "'" }}{{ '\'' }}"#,
            "{{ `` }}{{ `a\\ \n }} \"` }}{{ \"\\é\" }}",
            "{{ .end }}{{ $end := 1 }}{{ .else.if }}{{.été}}{{ endif }}{{ if_ }}{{ endé }}",
            // Blocks.
            "{{if .X}}a{{else if .Y}}b{{else   if .Z}}c{{else}}d{{end}}",
            "{{if(.X)}}{{else if(.Y)}}{{end}}",
            "{{with .X}}{{else with .Y}}{{else}}{{end}}{{range .X}}{{continue}}{{else}}{{end}}",
            "{{ if .X }}{{ range .Y }}{{ with .Z }}{{ end }}{{ end }}{{ end }}",
            "{{if .X}}{{else}}{{if .Y}}{{else}}{{end}}{{end}}",
            r#"{{define "t"}}a{{end}}{{template "t" .X}}{{block `u` .}}{{if .X}}{{end}}{{end}}"#,
            LARGE,
        ] {
            assert_eq!(check(template), Ok(()), "{template}");
        }
    }

    #[test]
    fn what_is_left_open_is_refused_at_its_line() {
        for (template, expected) in [
            ("{{", ":1: unclosed action"),
            ("a\nb\n{{ .X", ":3: unclosed action"),
            ("{{if", ":1: unclosed action"),
            ("{{ .X }", r#":1: unexpected "}" in operand"#),
            ("{{.X}", r#":1: unexpected "}" in operand"#),
            ("{{ .X }}\n{{ .Prompt } and more", r#":2: unexpected "}" in operand"#),
            ("{{{ .X }}", r#":1: unexpected "{" in operand"#),
            ("{{ {{ .X }} }}", r#":1: unexpected "{" in operand"#),
            ("\n{{/* a\n\n}}", ":2: unclosed comment"),
            ("{{/*/}}", ":1: unclosed comment"),
            ("{{/* a */", ":1: unclosed action"),
            (r#"{{ "a }}"#, ":1: unterminated quoted string"),
            ("{{ \"a\n\" }}", ":1: unterminated quoted string"),
            (r#"{{ "a\"#, ":1: unterminated quoted string"),
            ("{{ \"a\\\n\" }}", ":1: unterminated quoted string"),
            ("{{ 'a }}", ":1: unterminated quoted string"),
            ("{{ `a }}\n", ":1: unterminated raw quoted string"),
            ("{{if .X}}", ":1: unexpected EOF"),
            ("{{if .X}}{{else}}\n\n", ":3: unexpected EOF"),
            ("{{range .X}}{{if .Y}}{{end}}", ":1: unexpected EOF"),
            (r#"{{define "t"}}{{block "u" .}}{{end}}"#, ":1: unexpected EOF"),
            ("{{end}}", ":1: unexpected {{end}}"),
            ("a\n{{if .X}}{{end}}\n{{ end }}", ":3: unexpected {{end}}"),
            ("{{if .X}}{{else if .Y}}{{end}}{{- end}}", ":1: unexpected {{end}}"),
            ("{{else}}", ":1: unexpected {{else}}"),
            ("{{else if .X}}", ":1: unexpected {{else}}"),
            ("{{if .X}}{{end}}{{else}}", ":1: unexpected {{else}}"),
            ("{{if .X}}{{else}}{{else}}{{end}}", ":1: unexpected {{else}}"),
            ("{{if .X}}{{else}}{{else if .Y}}{{end}}", ":1: unexpected {{else}}"),
            (r#"{{define "t"}}{{else}}{{end}}"#, ":1: unexpected {{else}}"),
            ("{{block `t` .}}\n{{else}}{{end}}", ":2: unexpected {{else}}"),
        ] {
            assert_eq!(check(template), Err(format!("template: {expected}")), "{template}");
        }
    }

    #[test]
    fn damaged_templates_are_answered() {
        for (start, character) in LARGE.char_indices() {
            let (before, after) = (&LARGE[..start], &LARGE[start + character.len_utf8()..]);
            let in_action = before.rfind("{{") > before.rfind("}}");
            assert!(!in_action || check(before).is_err(), "{before}");
            for other in
                ["", "{", "}", "\"", "'", "`", "\\", "/", "*", "-", "\n", "é", "\u{10ffff}"]
            {
                let _ = check(&format!("{before}{other}{after}"));
            }
        }
        const PIECES: [&str; 14] =
            ["{{", "}}", " ", "-", "/*", "*/", "x", "\"", "'", "`", "else", "end", "é", "\\"];
        for one in PIECES {
            for (two, three) in PIECES.iter().flat_map(|two| PIECES.map(|three| (two, three))) {
                let _ = check(&format!("{one}{two}{three}"));
                let _ = check(&format!("{{{{range .x}}}}{{{{{one}{two}{three}}}}}{{{{end}}}}"));
            }
        }
    }

    /// None of these ends in time if an action or a block costs more the more there are.
    #[test]
    fn long_templates_take_linear_time() {
        let many = |piece: &str| piece.repeat(200_000);
        for template in [
            many("{{.X}}"),
            many("{{- 1 -}} "),
            many("{{/* a */}}"),
            many("{{if $x := 1}}{{end}}"),
            many("{{if .X}}") + &many("{{end}}"),
            format!("{{{{if .X}}}}{}{{{{end}}}}", many("{{else if .X}}")),
            format!("{{{{print{}}}}}", many(" 1")),
            format!("{{{{{}.X{}}}}}", many("("), many(")")),
            format!("{{{{\"{}\"}}}}", many("\\n")),
        ] {
            assert_eq!(check(&template), Ok(()));
        }
    }
}
