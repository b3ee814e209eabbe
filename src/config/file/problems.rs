//! The mistakes of the file, by line.
//!
//! Pure. Invariant: each is one line of text that begins with the file's name and the line's number.

use std::ops::Range;

use crate::api::wire::small_sort;

/// What is wrong, and where.
#[derive(Default)]
pub struct Problems {
    list: Vec<(usize, String)>,
    /// The lines that are no TOML, and whether each begins a section.
    syntax_lines: Vec<(usize, bool)>,
}

impl Problems {
    /// Adds a mistake.
    pub fn add(&mut self, line: usize, problem: &str) {
        let problem = problem.replace(['\n', '\r'], " ");
        if !self.list.iter().any(|(known, text)| *known == line && *text == problem) {
            self.list.push((line, problem));
        }
    }

    /// Adds a mistake in the syntax. Of several in one line, the first one is told: the others follow
    /// from it.
    pub fn add_syntax(&mut self, line: usize, is_header: bool, problem: &str) {
        if !self.is_broken(line) {
            self.syntax_lines.push((line, is_header));
            self.add(line, problem);
        }
    }

    /// Whether a line is no TOML.
    pub fn is_broken(&self, line: usize) -> bool {
        self.syntax_lines.iter().any(|(broken, _)| *broken == line)
    }

    /// Whether one of these lines is no TOML.
    pub fn is_any_broken(&self, lines: &Range<usize>) -> bool {
        self.syntax_lines.iter().any(|(broken, _)| lines.contains(broken))
    }

    /// Whether the beginning of a section is lost.
    pub fn lacks_section(&self) -> bool {
        self.syntax_lines.iter().any(|(_, is_header)| *is_header)
    }

    /// All mistakes in the order of their lines, each with its line.
    pub fn into_lines(mut self, file: &str) -> Vec<(usize, String)> {
        small_sort::sort_by_key(&mut self.list, |(line, _)| *line);
        let tell = |(line, problem)| (line, format!("{file}:{line}: {problem}"));
        self.list.into_iter().map(tell).collect()
    }
}
