//! The values of the file with their lines, and the variables in them replaced.
//!
//! Pure: the only part that knows the crate `toml`. `${NAME}` in a text is the value of that variable, and
//! `$${` stands for `${`. Invariant: a value that cannot be had is [`Item::Unknown`], after a problem has
//! said why, so that nothing else is told of it.

use crate::api::wire::small_sort;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problems::Problems;

/// A value, and where it stands.
pub struct Node {
    /// The line that it begins in, from 1 on.
    pub line: usize,
    /// The value.
    pub item: Item,
    /// The values of the variables in it; without any, the text is the file's own.
    pub variables: Vec<String>,
}

/// A value of one of TOML's types.
pub enum Item {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// An array.
    List(Vec<Node>),
    /// A table, in the order of its lines.
    Table(Vec<Member>),
    /// A date or a time, which no key takes.
    Time,
    /// A value that could not be read.
    Unknown,
}

/// A key of a table and its value.
pub struct Member {
    /// The key.
    pub key: String,
    /// The line of the key.
    pub line: usize,
    /// The value.
    pub node: Node,
}

impl Item {
    /// What it is, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Time => "a date or time",
            Self::Unknown => "an unknown value",
        }
    }
}

/// Finds the value of a variable.
pub type FindVariable<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The members of the file. Of a file with syntax errors, those that could be read.
pub fn parse(
    text: &str,
    is_wanted: &dyn Fn(&str) -> bool,
    find: &FindVariable<'_>,
    problems: &mut Problems,
) -> Vec<Member> {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let offset = error.span().map_or(text.len(), |span| span.start);
        // The message names what is expected and quotes nothing of the file.
        let line = lines.line_at(offset);
        let is_header = text[lines.0[line - 1]..].trim_start_matches([' ', '\t']).starts_with('[');
        problems.add_syntax(line, is_header, error.message());
    }
    let mut reader = Reader { lines, find, problems };
    let mut members = reader.read_table(table.get_ref(), is_wanted);
    // A value in a broken line may be anything.
    drop_broken(&mut members, problems);
    members
}

/// Leaves out what stands in broken lines.
fn drop_broken(members: &mut Vec<Member>, problems: &Problems) {
    members.retain(|member| !problems.is_broken(member.line));
    for member in members {
        drop_nested(&mut member.node, problems);
    }
}

fn drop_nested(node: &mut Node, problems: &Problems) {
    match &mut node.item {
        Item::List(nodes) => nodes.iter_mut().for_each(|node| drop_nested(node, problems)),
        Item::Table(members) => drop_broken(members, problems),
        _ => {}
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect())
    }

    /// The line of an offset, from 1 on.
    fn line_at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}

struct Reader<'a> {
    lines: Lines,
    find: &'a FindVariable<'a>,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn read_table(&mut self, table: &DeTable<'_>, is_wanted: &dyn Fn(&str) -> bool) -> Vec<Member> {
        let mut members = Vec::new();
        for (key, value) in table.iter().filter(|(key, _)| is_wanted(key.get_ref())) {
            let line = self.lines.line_at(key.span().start);
            members.push(Member { key: key.get_ref().to_string(), line, node: self.read(value) });
        }
        small_sort::sort_by_key(&mut members, |member| member.line);
        members
    }

    fn read(&mut self, value: &Spanned<DeValue<'_>>) -> Node {
        let line = self.lines.line_at(value.span().start);
        let mut variables = Vec::new();
        let item = match value.get_ref() {
            DeValue::String(text) => match replace_variables(text, self.find, &mut variables) {
                Ok(text) => Item::Text(text),
                Err(problem) => self.refuse(line, &problem),
            },
            DeValue::Integer(number) => match parse_integer(number) {
                Some(number) => Item::Integer(number),
                None => self.refuse(line, "the number is too large"),
            },
            DeValue::Float(number) => number.as_str().parse().map_or(Item::Unknown, Item::Float),
            DeValue::Boolean(value) => Item::Boolean(*value),
            DeValue::Datetime(_) => Item::Time,
            DeValue::Array(values) => Item::List(values.iter().map(|it| self.read(it)).collect()),
            DeValue::Table(table) => Item::Table(self.read_table(table, &|_| true)),
        };
        Node { line, item, variables }
    }

    fn refuse(&mut self, line: usize, problem: &str) -> Item {
        self.problems.add(line, problem);
        Item::Unknown
    }
}

fn parse_integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The text with the value of each variable in place of `${NAME}`. The values are added to `values`.
fn replace_variables(
    text: &str,
    find: &FindVariable<'_>,
    values: &mut Vec<String>,
) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (name, behind) = after
            .split_once('}')
            .filter(|(name, _)| is_name(name))
            .ok_or("expected the name of a variable and } after ${; write $${ for a plain ${")?;
        let value = find(name).ok_or_else(|| format!("the variable {name} is not set"))?;
        if value.contains('\u{fffd}') {
            return Err(format!("the variable {name} is not UTF-8 text"));
        }
        out.push_str(&value);
        values.push(value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether a text is the name of a variable (POSIX, Environment Variable Definition).
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "B_2" => Some("b ${A}".to_owned()),
            "EMPTY" => Some(String::new()),
            "RAW" => Some("\u{fffd}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once_and_a_doubled_dollar_sign_stands_for_itself() {
        let check = |text: &str, expected: &str, values: &[&str]| {
            let mut found = Vec::new();
            let replaced = replace_variables(text, &find, &mut found);
            assert_eq!(replaced.as_deref(), Ok(expected), "{text}");
            assert_eq!(found, values, "{text}");
        };
        check("", "", &[]);
        check("plain $ text $A {A} $", "plain $ text $A {A} $", &[]);
        check("${A}", "alpha", &["alpha"]);
        check("x${A}y${EMPTY}${A}", "xalphayalpha", &["alpha", "", "alpha"]);
        check("${B_2}", "b ${A}", &["b ${A}"]);
        check("$${A}", "${A}", &[]);
        check("$${A} ${A} $$", "${A} alpha $$", &["alpha"]);
        check("$${", "${", &[]);
    }

    #[test]
    fn what_is_no_variable_is_a_problem_that_names_the_variable_only() {
        let check = |text: &str, expected: &str| {
            let why = replace_variables(text, &find, &mut Vec::new()).expect_err(text);
            assert!(why.starts_with(expected) && !why.contains("s3cret"), "{text}: {why}");
        };
        check("s3cret ${NONE}", "the variable NONE is not set");
        check("${RAW}", "the variable RAW is not UTF-8 text");
        for text in ["${", "${}", "${s3cret", "${1A}", "${A:-s3cret}", "${ A }", "s3cret${é}"] {
            check(text, "expected the name of a variable");
        }
    }

    #[test]
    fn each_value_knows_its_line() {
        let text = "a = 1\n[t]\nb = [\n  \"x\",\n  { c = true },\n]\n\"d e\" = 0x10\n[[l]]\n[[l]]\nf = 1.5\n";
        let mut problems = Problems::default();
        let members = parse(text, &|_| true, &find, &mut problems);
        assert_eq!(problems.into_lines("f"), []);
        let keys: Vec<_> = members.iter().map(|it| (it.key.as_str(), it.line)).collect();
        assert_eq!(keys, [("a", 1), ("t", 2), ("l", 8)]);
        let Item::Table(table) = &members[1].node.item else { panic!("a table") };
        let keys: Vec<_> = table.iter().map(|it| (it.key.as_str(), it.line)).collect();
        assert_eq!(keys, [("b", 3), ("d e", 7)]);
        let Item::List(list) = &table[0].node.item else { panic!("an array") };
        assert_eq!(list.iter().map(|node| node.line).collect::<Vec<_>>(), [4, 5]);
        assert!(matches!(table[1].node.item, Item::Integer(16)));
        let Item::List(list) = &members[2].node.item else { panic!("an array of tables") };
        assert_eq!(list.iter().map(|node| node.line).collect::<Vec<_>>(), [8, 9]);
    }

    #[test]
    fn syntax_errors_are_told_together_and_what_is_right_is_still_read() {
        let text = "a = \n[t]\nb = 'x\nc = 1\nc = 2\nd = s3cret\n[u\ne = 3\n";
        let mut problems = Problems::default();
        let members = parse(text, &|_| true, &find, &mut problems);
        for line in [1, 3, 5, 6, 7] {
            assert!(problems.is_broken(line), "{line}");
        }
        assert!(problems.lacks_section() && !problems.is_any_broken(&(8..100)));
        let told = problems.into_lines("f");
        for (line, text) in &told {
            assert!(text.starts_with(&format!("f:{line}: ")) && !text.contains("s3cret"), "{text}");
        }
        assert!(members.iter().any(|member| member.key == "t"));
    }
}
