//! Templates that Go accepts and templates that it refuses, with its words; and no text at all that
//! has no answer.

use super::check;

/// Go accepts each of them.
fn accepted(templates: &[&str]) {
    for template in templates {
        assert_eq!(check(template), Ok(()), "{template}");
    }
}

/// Go refuses each of them, with a text that follows `template: `.
fn refused(templates: &[(&str, &str)]) {
    for (template, expected) in templates {
        assert_eq!(check(template), Err(format!("template: {expected}")), "{template}");
    }
}

/// Short, with a trim marker on every side.
const CHATML: &str = r#"{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ $m.Role }}
{{ .Content }}{{ if not $last }}<|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_end|>
<|im_start|>assistant
{{ end }}
{{- end }}"#;

/// Tools, calls and their results, branches of every kind.
const TOOLS: &str = r#"{{- /* Tools come before the first message. */ -}}
{{- if or .System .Tools }}<|start_header_id|>system<|end_header_id|>

Today is {{ currentDate }}, yesterday was {{ yesterdayDate "2006-01-02" }}.
{{- if .System }}

{{ .System }}
{{- end }}
{{- if .Tools }}

Answer with {"name": function, "parameters": object}. Do not use variables.
{{- range .Tools }}
{{ json .Function }}
{{- range $name, $property := .Function.Parameters.Properties }}
// {{ $name }}: {{ toTypeScriptType $property }}
{{- end }}
{{- end }}
{{- end }}<|eot_id|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|start_header_id|>user<|end_header_id|>

{{ .Content }}<|eot_id|>{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- else if eq .Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>
{{- if .ToolCalls }}
{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ json .Function.Arguments }}}{{ end }}
{{- else }}

{{ .Content }}
{{- end }}{{ if not $last }}<|eot_id|>{{ end }}
{{- else if and (eq .Role "tool") (not $last) }}<|start_header_id|>ipython<|end_header_id|>

{{ .Content | printf "%q" }}<|eot_id|>
{{- else }}
{{- with $m := (index $.Messages $i) }}{{ $m.Content }}{{ else with .Thinking }}{{ . }}{{ end }}
{{- break }}
{{- end }}
{{- end }}"#;

/// A gap to be filled, and templates inside of a template.
const INFILL: &str = r#"{{- define "turn" }}{{ .Role }}: {{ .Content }}
{{ end -}}
{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>
{{- else if .Messages }}
{{- range .Messages }}{{ template "turn" . }}{{ end }}
{{- else }}
{{- $system := .System }}{{ if $system }}{{ $system = printf "%s\n" $system }}{{ end }}
{{- block "ask" . }}{{ `User: ` }}{{ .Prompt | html }}{{ 'x' | printf "%c" }}{{ end }}
{{- end }}
{{ .Response }}"#;

const REAL: &[&str] = &[CHATML, TOOLS, INFILL];

#[test]
fn templates_like_ollama_s_are_accepted() {
    accepted(REAL);
    accepted(&[
        "",
        " ",
        "no action at all, } and }} included",
        "a { b",
        "{{ .Prompt }}",
        "{{.System}} {{.Prompt}}",
        "{{ .Prompt }}\n{{ .Response }}",
        "[INST] {{ if and .First .System }}<<SYS>>{{ .System }}<</SYS>>{{ end }}{{ .Prompt }}[/INST]",
        "{{ range .Messages }}{{ if eq .Role \"user\" }}{{ continue }}{{ end }}{{ .Content }}{{ end }}",
        "{{ json .Function.Arguments }}",
        "{{ slice .Messages 1 | len }}",
        "{{ (index .Messages 0).Content }}",
    ]);
}

#[test]
fn trim_markers_stand_with_a_blank() {
    accepted(&[
        "a {{- .X -}} b",
        "{{-\n.X\n-}}",
        "{{-   .X   -}}",
        "{{- -3 -}}",
        "{{- /* nothing */ -}}",
        "{{\n.X\n}}",
        "{{- .X }}{{ .Y -}}",
        "{{(.X) -}}",
    ]);
    refused(&[
        ("{{-}}", r#":1: illegal number syntax: "-""#),
        ("{{- }}", ":1: missing value for command"),
        ("{{ -}}", ":1: missing value for command"),
        ("{{ .X-}}", ":1: bad character U+002D '-'"),
        ("{{-.X}}", r#":1: bad number syntax: "-.X""#),
        ("{{ .X - }}", r#":1: illegal number syntax: "-""#),
    ]);
}

#[test]
fn comments_fill_their_action() {
    accepted(&[
        "{{/* a }} b */}}",
        "{{/**/}}",
        "{{/*\n\n*/}}",
        "a {{- /* b */ -}} c",
        "{{/* a */}}{{/* b */}}",
        "{{/* if */}}{{ .X }}",
    ]);
    refused(&[
        ("{{/* a", ":1: unclosed comment"),
        ("{{/*/}}", ":1: unclosed comment"),
        ("\n{{/* a\n\n}}", ":2: unclosed comment"),
        ("{{/* a */ }}", ":1: comment ends before closing delimiter"),
        ("{{/* a */", ":1: comment ends before closing delimiter"),
        ("{{/* a */-}}", ":1: comment ends before closing delimiter"),
        ("{{/* a */ .X}}", ":1: comment ends before closing delimiter"),
        ("{{ /* a */}}", r#":1: unexpected "/" in command"#),
        ("{{ .X /* a */ }}", r#":1: unexpected "/" in operand"#),
        ("{{if .X}}\n{{/* a", ":2: unclosed comment in action started at :1"),
    ]);
}

#[test]
fn actions_are_closed() {
    refused(&[
        ("{{", ":1: unclosed action"),
        ("{{ ", ":1: unclosed action"),
        ("{{ .X", ":1: unclosed action"),
        ("{{ .X }", r#":1: unexpected "}" in operand"#),
        ("{{ .Prompt } and more", r#":1: unexpected "}" in operand"#),
        ("{{.X}", ":1: bad character U+007D '}'"),
        ("{{ . }", r#":1: unexpected "}" in operand"#),
        ("{{if", ":1: unclosed action"),
        ("{{if .X", ":1: unclosed action"),
        ("a\nb\n{{ .X", ":3: unclosed action"),
        ("{{\n\n", ":3: unclosed action started at :1"),
        ("{{ .X\n", ":2: unclosed action started at :1"),
        ("{{ .X\n\"a", ":2: unterminated quoted string in action started at :1"),
        ("{{if .X}}{{.Y}}\n{{/*", ":2: unclosed comment"),
        ("{{ $a := `\n` }} {{", ":2: unclosed action"),
        ("{{{ .X }}", r#":1: unexpected "{" in command"#),
        ("{{ {{ .X }} }}", r#":1: unexpected "{" in command"#),
        ("{{}}", ":1: missing value for command"),
        ("{{ }}", ":1: missing value for command"),
    ]);
}

#[test]
fn dots_fields_and_variables() {
    accepted(&[
        "{{.}}",
        "{{ . }}",
        "{{.X.Y.Z}}",
        "{{.été}}",
        "{{._x1}}",
        "{{$}}",
        "{{$.X.Y}}",
        "{{$x := 1}}{{$x}}",
        "{{$x:=.X}}{{$x.Y}}",
        "{{$x := 1}}{{$x = 2}}",
        "{{$x = 2}}",
        "{{$1 := 1}}{{$1}}",
        "{{$x \n := \n 1}}",
        "{{$x := 1}}{{ printf \"%d\" $x }}",
        "{{.X .Y}}",
        "{{ .X $ }}",
    ]);
    refused(&[
        ("{{$x}}", r#":1: undefined variable "$x""#),
        ("{{$x.Y}}", r#":1: undefined variable "$x""#),
        ("a\n{{ print $x }}", r#":2: undefined variable "$x""#),
        ("{{$x := $y}}", r#":1: undefined variable "$y""#),
        ("{{$x,}}", ":1: too many declarations in command"),
        ("{{$x, $y := 1}}", ":1: too many declarations in command"),
        ("{{with $x, $y := 1}}{{end}}", ":1: too many declarations in with"),
        ("{{if $x, $y := 1}}{{end}}", ":1: too many declarations in if"),
        ("{{$x := }}", ":1: missing value for command"),
        ("{{$x := 1}}{{$x : 1}}", ":1: expected :="),
        ("{{$x : 1}}", r#":1: undefined variable "$x""#),
        ("{{$x := 1}}{{$x.Y := 2}}", r#":1: unexpected ":=" in operand"#),
        ("{{$x := $z := 1}}", r#":1: undefined variable "$z""#),
        ("{{.X := 1}}", r#":1: unexpected ":=" in operand"#),
        ("{{= 1}}", r#":1: unexpected "=" in command"#),
        ("{{..}}", ":1: unexpected <.> in operand"),
        ("{{.X..Y}}", ":1: unexpected <.> in operand"),
        ("{{..X}}", r#":1: unexpected . after term ".""#),
        ("{{.X.}}", ":1: unexpected <.> in operand"),
        ("{{.X+1}}", ":1: bad character U+002B '+'"),
        ("{{.-}}", ":1: bad character U+002D '-'"),
        ("{{$-}}", ":1: bad character U+002D '-'"),
        ("{{$x!}}", ":1: bad character U+0021 '!'"),
        ("{{.X\u{20ac}}}", ":1: bad character U+20AC '\u{20ac}'"),
        ("{{.", r#":1: illegal number syntax: ".""#),
    ]);
}

#[test]
fn variables_live_until_the_end_of_their_block() {
    accepted(&[
        "{{if $x := .X}}{{$x}}{{else}}{{$x}}{{end}}",
        "{{if $x := .X}}{{else if $y := .Y}}{{$x}}{{$y}}{{end}}",
        "{{if .X}}{{$y := 1}}{{else}}{{$y}}{{end}}",
        "{{range $i, $m := .X}}{{$i}}{{$m}}{{end}}",
        "{{range $m := .X}}{{$m}}{{else}}{{$m}}{{end}}",
        "{{range $i, $m = .X}}{{$i}}{{$m}}{{end}}",
        "{{with $x := .X}}{{$x}}{{end}}",
        "{{$x := 1}}{{if .X}}{{$x := 2}}{{end}}{{$x}}",
        "{{template \"t\" $x := .X}}{{$x}}",
        "{{block \"t\" $x := .X}}{{end}}{{$x}}",
        "{{($x := 1)}}{{$x}}",
        "{{define \"t\"}}{{$}}{{end}}",
    ]);
    refused(&[
        ("{{if $x := .X}}{{end}}{{$x}}", r#":1: undefined variable "$x""#),
        ("{{if .X}}{{$x := 1}}{{end}}{{$x}}", r#":1: undefined variable "$x""#),
        ("{{with $x := .X}}{{end}}{{$x}}", r#":1: undefined variable "$x""#),
        ("{{range $i, $m := .X}}{{end}}{{$m}}", r#":1: undefined variable "$m""#),
        ("{{if .X}}{{else if $y := 1}}{{end}}{{$y}}", r#":1: undefined variable "$y""#),
        ("{{$x := 1}}{{define \"t\"}}{{$x}}{{end}}", r#":1: undefined variable "$x""#),
        ("{{$x := 1}}{{block \"t\" .}}{{$x}}{{end}}", r#":1: undefined variable "$x""#),
        ("{{define \"t\"}}{{$x := 1}}{{end}}{{$x}}", r#":1: undefined variable "$x""#),
    ]);
}

#[test]
fn ranges_declare_two_variables() {
    refused(&[
        ("{{range $i, $m}}{{end}}", r#":1: undefined variable "$m""#),
        ("{{range $i,}}{{end}}", ":1: missing value for range"),
        ("{{range $i, $m := }}{{end}}", ":1: missing value for range"),
        ("{{range $i, .X}}{{end}}", ":1: range can only initialize variables"),
        ("{{range $i, 5 := .X}}{{end}}", ":1: range can only initialize variables"),
        ("{{range $i, $m, $n := .X}}{{end}}", ":1: too many declarations in range"),
        ("{{range $i := $m := .X}}{{end}}", r#":1: undefined variable "$m""#),
        ("{{range ($i, $m := .X)}}{{end}}", ":1: too many declarations in parenthesized pipeline"),
    ]);
}

#[test]
fn texts_and_characters() {
    accepted(&[
        r#"{{ "" }}"#,
        r#"{{ "}}" }}"#,
        r#"{{ "{{" }}"#,
        r#"{{ "a\"b\\\n\t\x41\u00e9\U0001F600\101" }}"#,
        "{{ `a\\ \n }} \"` }}",
        "{{ `` }}",
        "{{ 'a' }}",
        "{{ 'é' }}",
        r"{{ '\n' }}{{ '\'' }}{{ '\\' }}{{ '\xff' }}{{ '\u00e9' }}{{ '\000' }}{{ '\377' }}",
        r#"{{ '"' }}"#,
        r#"{{ "'" }}"#,
    ]);
    refused(&[
        (r#"{{ "a }}"#, ":1: unterminated quoted string"),
        ("{{ \"a\n\" }}", ":1: unterminated quoted string"),
        (r#"{{ "a\"#, ":1: unterminated quoted string"),
        ("{{ \"a\\\n\" }}", ":1: unterminated quoted string"),
        ("{{ `a }}\n", ":1: unterminated raw quoted string"),
        ("{{ 'a }}", ":1: unterminated character constant"),
        ("{{ '\n' }}", ":1: unterminated character constant"),
        ("{{ 'ab' }}", ":1: malformed character constant: 'ab'"),
        ("{{ '' }}", ":1: invalid syntax"),
        (r"{{ '\q' }}", ":1: invalid syntax"),
        (r#"{{ '\"' }}"#, ":1: invalid syntax"),
        (r"{{ '\400' }}", ":1: invalid syntax"),
        (r"{{ '\ud800' }}", ":1: invalid syntax"),
        (r#"{{ "\'" }}"#, ":1: invalid syntax"),
        (r#"{{ "\q" }}"#, ":1: invalid syntax"),
        (r#"{{ "\x4" }}"#, ":1: invalid syntax"),
        (r#"{{ "\u00g0" }}"#, ":1: invalid syntax"),
        (r#"{{ "\U00110000" }}"#, ":1: invalid syntax"),
        (r#"{{ "\18" }}"#, ":1: invalid syntax"),
        ("{{ \"\\é\" }}", ":1: invalid syntax"),
        (r#"{{ "a""b" }}"#, r#":1: unexpected "\"b\"" in operand"#),
        (r#"{{ "a"`b` }}"#, r#":1: unexpected "`b`" in operand"#),
        (r#"{{ "a".X }}"#, r#":1: unexpected . after term "\"a\"""#),
        ("{{ 'a'.X }}", r#":1: unexpected . after term "'a'""#),
        ("{{ `a`.X.Y }}", r#":1: unexpected . after term "`a`""#),
        (r#"{{ printf "a"0123456789x }}"#, r#":1: bad number syntax: "0123456789x""#),
        (r#"{{ 1"a long text" }}"#, r#":1: unexpected "\"a long te"... in operand"#),
    ]);
}

#[test]
fn numbers_are_go_s() {
    accepted(&[
        "{{ 0 }}{{ 1 }}{{ 42 }}{{ -1 }}{{ +1 }}{{ -0 }}",
        "{{ 017 }}{{ 0o17 }}{{ 0O17 }}{{ 0b101 }}{{ 0B1 }}{{ 0xfF }}{{ 0XA }}{{ -0x1 }}{{ 0xe }}",
        "{{ 1_000 }}{{ 0_7 }}{{ 0x_ff }}{{ 0b_1_0 }}",
        "{{ 1.5 }}{{ 1. }}{{ .5 }}{{ -.5 }}{{ 1e3 }}{{ 1E+3 }}{{ 1.5e-3 }}{{ 08.5 }}{{ 1_0.5 }}",
        "{{ 0x1p4 }}{{ 0x1.8p-1 }}{{ 0X.8P+1 }}{{ 0x1_0p1_0 }}",
        "{{ 1i }}{{ -3.2i }}{{ 1e3i }}{{ 1+2i }}{{ -1.5-2.5i }}",
        "{{ 18446744073709551615 }}{{ -9223372036854775808 }}{{ 9223372036854775807 }}",
        "{{ 0xffffffffffffffff }}{{ 1e308 }}{{ 100000000000000000000.0 }}",
        "{{ printf \"%d\" 1 .5 -2 }}",
        "{{$x := 1}}{{ print $x -2 }}",
    ]);
    refused(&[
        ("{{ 3k }}", r#":1: bad number syntax: "3k""#),
        ("{{ 1é }}", r#":1: bad number syntax: "1é""#),
        ("{{ 0b12 }}", r#":1: bad number syntax: "0b12""#),
        ("{{ 0o18 }}", r#":1: bad number syntax: "0o18""#),
        ("{{ 0xg }}", r#":1: bad number syntax: "0xg""#),
        ("{{ 1.x }}", r#":1: bad number syntax: "1.x""#),
        ("{{ 1+2 }}", r#":1: bad number syntax: "1+2""#),
        ("{{ 1+ }}", r#":1: bad number syntax: "1+""#),
        ("{{ 1-2x }}", r#":1: bad number syntax: "1-2x""#),
        ("{{ +inf }}", r#":1: bad number syntax: "+in""#),
        ("{{ + }}", r#":1: illegal number syntax: "+""#),
        ("{{ 1e }}", r#":1: illegal number syntax: "1e""#),
        ("{{ 1.E }}", r#":1: illegal number syntax: "1.E""#),
        ("{{ 0x }}", r#":1: illegal number syntax: "0x""#),
        ("{{ 0x1.8 }}", r#":1: illegal number syntax: "0x1.8""#),
        ("{{ 0xp1 }}", r#":1: illegal number syntax: "0xp1""#),
        ("{{ 0x1p }}", r#":1: illegal number syntax: "0x1p""#),
        ("{{ 0b1.1 }}", r#":1: illegal number syntax: "0b1.1""#),
        ("{{ 1__0 }}", r#":1: illegal number syntax: "1__0""#),
        ("{{ 1_ }}", r#":1: illegal number syntax: "1_""#),
        ("{{ 1_.5 }}", r#":1: illegal number syntax: "1_.5""#),
        ("{{ 1e999 }}", r#":1: illegal number syntax: "1e999""#),
        ("{{ 0x10i }}", r#":1: illegal number syntax: "0x10i""#),
        ("{{ 0x1ffffffffffffffff }}", r#":1: illegal number syntax: "0x1ffffffffffffffff""#),
        ("{{ 089 }}", r#":1: integer overflow: "089""#),
        ("{{ 18446744073709551616 }}", r#":1: integer overflow: "18446744073709551616""#),
        ("{{ -9223372036854775809 }}", r#":1: integer overflow: "-9223372036854775809""#),
        ("{{ +9223372036854775808 }}", r#":1: integer overflow: "+9223372036854775808""#),
        ("{{ 1.5.X }}", r#":1: unexpected . after term "1.5""#),
        ("{{ 1.5.5 }}", r#":1: unexpected ".5" in operand"#),
    ]);
}

#[test]
fn other_constants_and_functions() {
    accepted(&[
        "{{ true }}{{ false }}{{ print nil }}{{ nil }}",
        "{{ and 1 2 }}{{ or 1 2 }}{{ not 1 }}{{ len .X }}{{ index .X 0 }}{{ slice .X 0 1 }}",
        "{{ eq 1 2 }}{{ ne 1 2 }}{{ lt 1 2 }}{{ le 1 2 }}{{ gt 1 2 }}{{ ge 1 2 }}",
        "{{ print }}{{ printf `a` }}{{ println }}{{ html .X }}{{ js .X }}{{ urlquery .X }}{{ call .F }}",
        "{{ json .X }}{{ currentDate }}{{ yesterdayDate }}{{ toTypeScriptType .X }}",
        "{{ print.X }}",
    ]);
    refused(&[
        ("{{ foo }}", r#":1: function "foo" not defined"#),
        ("{{ .X | upper }}", r#":1: function "upper" not defined"#),
        ("{{ Json .X }}", r#":1: function "Json" not defined"#),
        ("{{ len (foo .X) }}", r#":1: function "foo" not defined"#),
        ("a\n{{ if foo }}", r#":2: function "foo" not defined"#),
        ("{{ a-b }}", ":1: bad character U+002D '-'"),
        ("{{ true.X }}", r#":1: unexpected . after term "true""#),
        ("{{ nil.X }}", r#":1: unexpected . after term "nil""#),
        ("{{ printtrue }}", r#":1: function "printtrue" not defined"#),
        ("{{ .X true) }}", ":1: unexpected right paren"),
        ("{{ #x }}", r##":1: unexpected "#" in command"##),
        ("{{ \u{1} }}", ":1: unrecognized character in action: U+0001"),
        ("{{ \u{7f} }}", ":1: unrecognized character in action: U+007F"),
        ("{{ \u{20ac} }}", ":1: unrecognized character in action: U+20AC '\u{20ac}'"),
        ("{{ \u{a0} }}", ":1: unrecognized character in action: U+00A0"),
    ]);
}

#[test]
fn pipelines_and_parentheses() {
    accepted(&[
        "{{ .X | .Y }}",
        "{{.X|print|printf `a`}}",
        "{{ 1 | print }}",
        "{{ print (print 1) (print 2 | print) }}",
        "{{ (.X) }}{{ ((.X)) }}{{ (.X).Y.Z }}{{ ( .X ) }}",
        "{{ (.X | print).Y }}",
        "{{ .X | (print 1) }}",
        "{{ .X | $ }}",
        // Nothing need follow a pipe's end.
        "{{ .X | }}",
    ]);
    refused(&[
        ("{{ | }}", r#":1: unexpected "|" in command"#),
        ("{{ .X || .Y }}", r#":1: unexpected "|" in command"#),
        ("{{ .X | 1 }}", ":1: non executable command in pipeline stage 2"),
        ("{{ .X | print | . }}", ":1: non executable command in pipeline stage 3"),
        ("{{ .X | nil | true }}", ":1: non executable command in pipeline stage 2"),
        ("{{ .X | `a` }}", ":1: non executable command in pipeline stage 2"),
        ("{{ .X | 'a' }}", ":1: non executable command in pipeline stage 2"),
        ("{{ (.X | 1) }}", ":1: non executable command in pipeline stage 2"),
        ("{{ if .X | 1 }}{{ end }}", ":1: non executable command in pipeline stage 2"),
        ("{{ () }}", ":1: missing value for parenthesized pipeline"),
        ("{{ print ( ) }}", ":1: missing value for parenthesized pipeline"),
        ("{{ (.X }}", ":1: unclosed left paren"),
        ("{{ (.X -}}", ":1: unclosed left paren"),
        ("{{ ((.X) }}", ":1: unclosed left paren"),
        ("{{ (.X", ":1: unclosed action"),
        ("{{ .X) }}", ":1: unexpected right paren"),
        ("{{ ) }}", ":1: unexpected right paren"),
        ("{{ (.X). }}", ":1: unexpected <.> in operand"),
        ("{{ .X(.Y) }}", r#":1: unexpected "(" in operand"#),
        ("{{ (.X)(.Y) }}", r#":1: unexpected "(" in operand"#),
        ("{{ print 1, 2 }}", r#":1: unexpected "," in operand"#),
        ("{{ print \"a\"? }}", r#":1: unexpected "?" in operand"#),
        ("{{ print , }}", r#":1: unexpected "," in operand"#),
        ("{{ .X = 1 }}", r#":1: unexpected "=" in operand"#),
        ("{{ (, ) }}", r#":1: unexpected "," in parenthesized pipeline"#),
        ("{{ if , }}", r#":1: unexpected "," in if"#),
        ("{{ print if }}", ":1: unexpected <if> in operand"),
        ("{{ .X | end }}", ":1: unexpected <end> in command"),
        ("{{ (range) }}", ":1: unexpected <range> in parenthesized pipeline"),
    ]);
}

#[test]
fn blocks_end_and_have_one_else() {
    accepted(&[
        "{{if .X}}{{end}}",
        "{{if .X}}a{{else}}b{{end}}",
        "{{if .X}}a{{else if .Y}}b{{else if .Z}}c{{else}}d{{end}}",
        "{{if .X}}{{else   if .Y}}{{end}}",
        "{{with .X}}{{else}}{{end}}",
        "{{with .X}}{{else with .Y}}{{else}}{{end}}",
        "{{range .X}}{{else}}{{end}}",
        "{{ if .X }}{{ range .Y }}{{ with .Z }}{{ end }}{{ end }}{{ end }}",
        "{{if .X}}{{else}}{{if .Y}}{{end}}{{end}}",
        "{{if .X}}{{- end}}",
        "{{ if true }}{{ end -}}",
    ]);
    refused(&[
        ("{{if .X}}", ":1: unexpected EOF"),
        ("{{if .X}}\n\n", ":3: unexpected EOF"),
        ("{{if .X}}{{else}}", ":1: unexpected EOF"),
        ("{{range .X}}{{if .Y}}{{end}}", ":1: unexpected EOF"),
        ("{{if}}{{end}}", ":1: missing value for if"),
        ("{{range}}{{end}}", ":1: missing value for range"),
        ("{{with}}{{end}}", ":1: missing value for with"),
        ("{{end}}", ":1: unexpected {{end}}"),
        ("{{else}}", ":1: unexpected {{else}}"),
        ("{{else if .X}}", ":1: unexpected {{else}}"),
        ("a\n{{if .X}}{{end}}\n{{ end }}", ":3: unexpected {{end}}"),
        ("{{if .X}}{{end}}{{else}}", ":1: unexpected {{else}}"),
        ("{{if .X}}{{else}}{{else}}{{end}}", ":1: expected end; found {{else}}"),
        ("{{if .X}}{{else}}{{else if .Y}}{{end}}", ":1: expected end; found {{else}}"),
        ("{{range .X}}{{else}}{{else}}{{end}}", ":1: expected end; found {{else}}"),
        ("{{if .X}}{{else with .Y}}{{end}}", ":1: unexpected <with> in input"),
        ("{{with .X}}{{else if .Y}}{{end}}", ":1: unexpected <if> in input"),
        ("{{range .X}}{{else if .Y}}{{end}}", ":1: unexpected <if> in input"),
        ("{{if .X}}{{else if}}{{end}}", ":1: missing value for if"),
        ("{{if .X}}{{else if .Y}}{{end}}{{end}}", ":1: unexpected {{end}}"),
        ("{{if .X}}{{else .Y}}{{end}}", r#":1: unexpected ".Y" in else"#),
        ("{{if .X}}{{else range .Y}}{{end}}", ":1: unexpected <range> in else"),
        ("{{if .X}}{{end .Y}}", r#":1: unexpected ".Y" in end"#),
        ("{{if .X}}{{end", ":1: unclosed action"),
        ("{{ if .X }}{{ elseif .Y }}{{ end }}", r#":1: function "elseif" not defined"#),
        ("{{ endif }}", r#":1: function "endif" not defined"#),
    ]);
}

#[test]
fn ranges_can_be_left_from_inside_only() {
    accepted(&[
        "{{range .X}}{{break}}{{end}}",
        "{{range .X}}{{ continue }}{{end}}",
        "{{range .X}}{{if .Y}}{{break}}{{else}}{{continue}}{{end}}{{end}}",
        "{{range .X}}{{range .Y}}{{end}}{{break}}{{end}}",
        "{{range .X}}{{range .Y}}{{else}}{{break}}{{end}}{{end}}",
    ]);
    refused(&[
        ("{{break}}", ":1: {{break}} outside {{range}}"),
        ("{{continue}}", ":1: {{continue}} outside {{range}}"),
        ("{{range .X}}{{end}}{{break}}", ":1: {{break}} outside {{range}}"),
        ("{{range .X}}{{else}}{{end}}{{break}}", ":1: {{break}} outside {{range}}"),
        ("{{range .X}}{{else}}{{continue}}{{end}}", ":1: {{continue}} outside {{range}}"),
        ("{{range .X}}{{block `t` .}}{{break}}{{end}}{{end}}", ":1: {{break}} outside {{range}}"),
        ("{{range .X}}{{break 1}}{{end}}", r#":1: unexpected "1" in {{break}}"#),
        ("{{range .X}}{{continue .Y}}{{end}}", r#":1: unexpected ".Y" in {{continue}}"#),
    ]);
}

#[test]
fn templates_in_templates() {
    accepted(&[
        r#"{{define "t"}}a{{end}}{{template "t"}}{{template "t" .X}}"#,
        "{{define `t`}}{{end}}",
        r#"{{ template "unknown" . }}"#,
        r#"{{block "t" .}}a{{end}}"#,
        r#"{{block "t" .}}{{block "u" .}}{{end}}{{end}}"#,
        // What holds nothing but blanks may be there twice.
        r#"{{define "t"}}a{{end}}{{define "t"}} {{end}}"#,
        r#"{{define "t"}}{{/* a */}}{{end}}{{define "t"}}a{{end}}"#,
        r#"{{define "t"}}a{{end}} {{define "u"}}a{{end}}"#,
        r#"{{define ""}}a{{end}} "#,
    ]);
    refused(&[
        ("{{define}}{{end}}", r#":1: unexpected "}}" in define clause"#),
        ("{{define t}}{{end}}", r#":1: unexpected "t" in define clause"#),
        ("{{define .T}}{{end}}", r#":1: unexpected ".T" in define clause"#),
        (r#"{{define "t" .}}{{end}}"#, ":1: unexpected <.> in define clause"),
        (r#"{{define "\q"}}{{end}}"#, ":1: invalid syntax"),
        (r#"{{define "t"}}"#, ":1: unexpected EOF"),
        (r#"{{define "t"}}{{else}}{{end}}"#, ":1: unexpected {{else}} in define clause"),
        (r#"{{if .X}}{{define "t"}}{{end}}{{end}}"#, ":1: unexpected <define> in command"),
        (r#"{{define "t"}}{{define "u"}}{{end}}{{end}}"#, ":1: unexpected <define> in command"),
        ("{{template}}", r#":1: unexpected "}}" in template clause"#),
        ("{{template t}}", r#":1: unexpected "t" in template clause"#),
        ("{{template $t}}", r#":1: unexpected "$t" in template clause"#),
        (r#"{{template "t" if}}"#, ":1: unexpected <if> in template clause"),
        (r#"{{template "\q"}}"#, ":1: invalid syntax"),
        ("{{block}}{{end}}", r#":1: unexpected "}}" in block clause"#),
        (r#"{{block "t"}}{{end}}"#, ":1: missing value for block clause"),
        (r#"{{block "t" .}}"#, ":1: unexpected EOF"),
        ("{{block `t` .}}\n{{else}}{{end}}", ":1: unexpected {{else}} in block clause"),
        (
            "{{define `t`}}a{{end}}\n{{define `t`}}b{{end}}",
            r#":2: template: multiple definition of template "t""#,
        ),
        (
            "{{define `t`}}a{{end}}{{block \"\\x74\" .}}b{{end}}",
            r#":1: template: multiple definition of template "t""#,
        ),
        ("{{define \"\"}}a{{end}}b", r#":1: template: multiple definition of template """#),
    ]);
}

#[test]
fn long_and_strange_texts_are_shown_cut_and_quoted() {
    refused(&[
        ("{{end abcdefghij}}", r#":1: unexpected "abcdefghij" in end"#),
        ("{{end abcdefghijk}}", r#":1: unexpected "abcdefghij"... in end"#),
        // Eleven bytes, but ten characters.
        ("{{end abcdefghié}}", r#":1: unexpected "abcdefghié"... in end"#),
        ("{{end `\t\u{7}\u{1}\\\u{a0}`}}", r#":1: unexpected "`\t\a\x01\\\u00a0`" in end"#),
        ("{{end true}}", r#":1: unexpected "true" in end"#),
        ("{{end nil}}", ":1: unexpected <nil> in end"),
        ("{{end .}}", ":1: unexpected <.> in end"),
        ("{{end := }}", r#":1: unexpected ":=" in end"#),
    ]);
}

#[test]
fn an_error_is_told_at_its_line() {
    refused(&[
        ("\n\n{{ foo }}", r#":3: function "foo" not defined"#),
        ("{{ print\n\nfoo }}", r#":3: function "foo" not defined"#),
        ("a {{- \n\n .X }}\n{{ foo }}", r#":4: function "foo" not defined"#),
        ("{{ .X -}} \n\n {{ foo }}", r#":3: function "foo" not defined"#),
        ("a \n\n {{- foo }}", r#":3: function "foo" not defined"#),
        ("{{/*\n*/ -}}\n\n{{ foo }}", r#":4: function "foo" not defined"#),
        ("{{ `\n\n` }}{{ foo }}", r#":3: function "foo" not defined"#),
        ("\r\n{{ foo }}", r#":2: function "foo" not defined"#),
    ]);
}

#[test]
fn parentheses_are_bounded_as_in_go() {
    let nested = |depth: usize| format!("{{{{{}.X{}}}}}", "(".repeat(depth), ")".repeat(depth));
    accepted(&[&nested(10_000)]);
    let too_deep = ":1: max expression depth exceeded";
    refused(&[(&nested(10_001), too_deep), (&nested(100_000), too_deep)]);
    refused(&[(&format!("{{{{{}", "(".repeat(100_000)), too_deep)]);
    let calls = "(print ".repeat(100_000);
    refused(&[(&format!("{{{{{calls}"), too_deep)]);
}

#[test]
fn blocks_are_bounded() {
    for (begin, end) in [
        ("{{if .X}}", "{{end}}"),
        ("{{with .X}}", "{{end}}"),
        ("{{range .X}}", "{{end}}"),
        ("{{if .X}}{{else}}", "{{end}}"),
        ("{{block `t` .}}", "{{end}}"),
    ] {
        let nested = |depth: usize| begin.repeat(depth) + &end.repeat(depth);
        let too_deep = ":1: max block depth exceeded";
        refused(&[(&nested(10_001), too_deep), (&begin.repeat(100_000), too_deep)]);
        if !begin.contains("block") {
            accepted(&[&nested(10_000)]);
        }
    }
    // Links of a chain do not stand in each other.
    let chain = "{{else if .X}}".repeat(100_000);
    accepted(&[&format!("{{{{if .X}}}}{chain}{{{{end}}}}")]);
}

/// None of these ends in time if a token, or a look-up, costs more the more there are.
#[test]
fn much_of_everything_is_read_in_one_go() {
    let many = |piece: &str| piece.repeat(200_000);
    accepted(&[
        &many("{{.X}}"),
        &many("{{- 1 -}} "),
        &many(" \n"),
        &many("{{/* a */}}"),
        &many("{{$x := 1}}"),
        &many("{{if $x := 1}}{{end}}"),
        &many("{{block `t` .}}{{end}}"),
        &format!("{{{{.X{}}}}}", many(".Y")),
        &format!("{{{{print{}}}}}", many(" 1")),
        &format!("{{{{print{}}}}}", many("|print")),
        &format!("{{{{{}.X}}}}", many(" ")),
        &format!("{{{{\"{}\"}}}}", many("\\n")),
    ]);
    let mut variables = String::new();
    for number in 0..100_000 {
        variables += &format!("{{{{$x{number} := 1}}}}{{{{$x{number}}}}}");
    }
    accepted(&[&variables]);
}

/// Whatever is wrong, it is told in Go's form and at a line that is there.
fn answers(template: &str) {
    let Err(error) = check(template) else { return };
    let rest = error.strip_prefix("template: :").expect("Go's beginning");
    let (line, text) = rest.split_once(": ").expect("a line");
    let lines = 1 + template.matches('\n').count();
    assert!((1..=lines).contains(&line.parse().expect("a number")), "{error}: {template}");
    assert!(!text.is_empty(), "{template}");
}

#[test]
fn a_template_that_breaks_off_anywhere_has_an_answer() {
    for template in REAL {
        for end in (0..template.len()).filter(|end| template.is_char_boundary(*end)) {
            let cut = &template[..end];
            answers(cut);
            let in_action = cut.rfind("{{") > cut.rfind("}}");
            assert!(!in_action || check(cut).is_err(), "{cut}");
        }
    }
}

#[test]
fn a_template_with_any_character_changed_has_an_answer() {
    const OTHERS: &str = "{}(|)-.$,:=\"'`\\/* \n\r\0x0_ié\u{301}\u{fffd}\u{10ffff}";
    for template in REAL {
        for (start, character) in template.char_indices() {
            let (before, after) = (&template[..start], &template[start + character.len_utf8()..]);
            answers(&format!("{before}{after}"));
            for other in OTHERS.chars() {
                answers(&format!("{before}{other}{after}"));
            }
        }
    }
}

#[test]
fn short_texts_of_all_signs_have_an_answer() {
    const PIECES: &[&str] = &[
        "{{", "}}", " ", "-", "/*", "*/", ".", "x", "$x", "1", "\"", "'", "`", "(", ")", "|", ":=",
        ",", "if", "else", "end", "range", "define", "block", "\n", "é", "\\",
    ];
    for text in PIECES.iter().flat_map(|one| PIECES.iter().map(move |two| format!("{one}{two}"))) {
        for three in PIECES {
            answers(&format!("{text}{three}"));
            answers(&format!("{{{{{text}{three}}}}}"));
            answers(&format!("{{{{range .x}}}}{{{{{text}{three}}}}}{{{{end}}}}"));
        }
    }
}
