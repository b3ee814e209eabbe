//! How the blocks of a template may follow each other and stand in one another.
//!
//! Blocks that are open stand in a list of bounded length: nothing calls itself. A template's own
//! body, and that of each `define` and `block`, is a [`Tree`] with variables of its own; as Go
//! parses each for itself, an error is told at the last token that the tree at fault has read.

use std::collections::HashMap;

use super::lexer::{Kind, Lexer, Token};
use super::literal;

/// Blocks in blocks; Go has no bound, and no template comes near this one.
const MOST_BLOCKS: usize = 10_000;

pub(super) type Result<T> = std::result::Result<T, String>;

/// What opens a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    If,
    With,
    Range,
    /// A template of its own.
    Define,
    /// A template of its own that is used where it stands.
    Block,
}

impl Opener {
    /// As errors call it.
    fn context(self) -> &'static str {
        match self {
            Self::If => "if",
            Self::With => "with",
            Self::Range => "range",
            Self::Define => "define clause",
            Self::Block => "block clause",
        }
    }
}

/// An open [`Opener`].
#[derive(Debug)]
struct Open {
    opener: Opener,
    /// Whether its `else` was met.
    in_else: bool,
    /// How many variables there were before it.
    variables: usize,
}

/// A template, or one that is defined inside of it.
#[derive(Debug, Default)]
pub(super) struct Tree<'a> {
    name: Vec<u8>,
    /// Variables in the order of their declaration.
    variables: Vec<&'a str>,
    /// How often each is declared, so that their number does not slow a look-up.
    declared: HashMap<&'a str, usize>,
    /// Open ranges whose `else` was not met.
    ranges: usize,
    /// Where the action began that is not over yet; a block's own is not over before its first one.
    action: Option<usize>,
    /// The line of the last token.
    line: usize,
    /// Whether it holds more than blanks.
    full: bool,
}

impl<'a> Tree<'a> {
    pub(super) fn declare(&mut self, variable: &'a str) {
        self.variables.push(variable);
        *self.declared.entry(variable).or_default() += 1;
    }

    pub(super) fn knows(&self, variable: &str) -> bool {
        variable == "$" || self.declared.get(variable).is_some_and(|count| *count > 0)
    }

    /// Forgets all variables but the first `count`.
    fn forget(&mut self, count: usize) {
        for variable in self.variables.drain(count..) {
            if let Some(count) = self.declared.get_mut(variable) {
                *count -= 1;
            }
        }
    }
}

/// What is known of a template while it is read.
#[derive(Debug)]
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    /// Tokens that were read too early, the next one last.
    pending: Vec<Token<'a>>,
    pub(super) tree: Tree<'a>,
    /// The trees around it.
    outer: Vec<Tree<'a>>,
    open: Vec<Open>,
    /// Whether the templates that are complete hold more than blanks.
    defined: HashMap<Vec<u8>, bool>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            lexer: Lexer::new(text),
            pending: Vec::new(),
            tree: Tree::default(),
            outer: Vec::new(),
            open: Vec::new(),
            defined: HashMap::new(),
        }
    }

    /// Reads the whole template.
    pub(super) fn check(mut self) -> Result<()> {
        loop {
            let token = self.next_word();
            match token.kind {
                Kind::Eof if self.open.is_empty() => return self.complete(),
                Kind::Eof => return Err(self.fault("unexpected EOF")),
                Kind::Text => self.tree.full |= !token.text.trim().is_empty(),
                Kind::LeftDelim => self.action(token.line)?,
                _ => return Err(self.unexpected(token, "input")),
            }
        }
    }

    /// What stands in an action, the end of that included.
    fn action(&mut self, line: usize) -> Result<()> {
        let word = self.next_word();
        if word.kind == Kind::Define && self.open.is_empty() {
            return self.define();
        }
        self.tree.action = Some(line);
        match word.kind {
            Kind::Else => return self.alternative(),
            Kind::End => return self.end(),
            _ => self.tree.full = true,
        }
        match word.kind {
            Kind::If => return self.control(Opener::If),
            Kind::With => return self.control(Opener::With),
            Kind::Range => return self.control(Opener::Range),
            Kind::Block => return self.block(),
            Kind::Break => self.leave("{{break}}")?,
            Kind::Continue => self.leave("{{continue}}")?,
            Kind::Template => self.template()?,
            _ => {
                self.back(word);
                self.pipeline("command")?;
            }
        }
        self.tree.action = None;
        Ok(())
    }

    /// `if`, `with` and `range`.
    fn control(&mut self, opener: Opener) -> Result<()> {
        let variables = self.tree.variables.len();
        self.pipeline(opener.context())?;
        self.tree.ranges += usize::from(opener == Opener::Range);
        self.push(opener, variables)
    }

    /// `define`, which only stands at the top.
    fn define(&mut self) -> Result<()> {
        let context = Opener::Define.context();
        self.begin(Opener::Define)?;
        self.tree.name = self.name(context)?;
        self.expect_end(context)
    }

    /// `block`, which defines a template and uses it with the pipeline's value.
    fn block(&mut self) -> Result<()> {
        let context = Opener::Block.context();
        let name = self.name(context)?;
        self.pipeline(context)?;
        self.begin(Opener::Block)?;
        self.tree.name = name;
        Ok(())
    }

    /// `template`; the pipeline can be left out.
    fn template(&mut self) -> Result<()> {
        let context = "template clause";
        self.name(context)?;
        let token = self.next_word();
        if token.kind == Kind::RightDelim {
            return Ok(());
        }
        self.back(token);
        self.pipeline(context)
    }

    /// `break` and `continue`.
    fn leave(&mut self, word: &str) -> Result<()> {
        self.expect_end(word)?;
        match self.tree.ranges {
            0 => Err(self.fault(format!("{word} outside {{{{range}}}}"))),
            _ => Ok(()),
        }
    }

    /// `else`, alone or before the `if` or `with` of a block of the same kind.
    fn alternative(&mut self) -> Result<()> {
        let next = self.next_word();
        let again = matches!(next.kind, Kind::If | Kind::With);
        self.back(next);
        if !again {
            self.expect_end("else")?;
        }
        self.tree.action = None;
        let Some(open) = self.open.last_mut() else {
            return Err(self.fault("unexpected {{else}}"));
        };
        let opener = open.opener;
        match (opener, next.kind) {
            (Opener::Define, _) => {
                return Err(self.fault("unexpected {{else}} in define clause"));
            }
            (Opener::Block, _) => {
                // The fault is with whoever waits for the block.
                self.tree = self.outer.pop().unwrap_or_default();
                return Err(self.fault("unexpected {{else}} in block clause"));
            }
            _ if open.in_else => return Err(self.fault("expected end; found {{else}}")),
            (Opener::If, Kind::If) | (Opener::With, Kind::With) => {
                self.next();
                return self.pipeline(opener.context());
            }
            _ => open.in_else = true,
        }
        self.tree.ranges -= usize::from(opener == Opener::Range);
        Ok(())
    }

    /// `end`.
    fn end(&mut self) -> Result<()> {
        self.expect_end("end")?;
        let Some(open) = self.open.pop() else {
            return Err(self.fault("unexpected {{end}}"));
        };
        match open.opener {
            Opener::If | Opener::With => self.tree.forget(open.variables),
            Opener::Range => {
                self.tree.ranges -= usize::from(!open.in_else);
                self.tree.forget(open.variables);
            }
            Opener::Define | Opener::Block => {
                self.complete()?;
                self.tree = self.outer.pop().unwrap_or_default();
            }
        }
        self.tree.action = None;
        Ok(())
    }

    /// Begins a template inside of this one.
    fn begin(&mut self, opener: Opener) -> Result<()> {
        self.push(opener, 0)?;
        self.outer.push(std::mem::take(&mut self.tree));
        Ok(())
    }

    fn push(&mut self, opener: Opener, variables: usize) -> Result<()> {
        if self.open.len() >= MOST_BLOCKS {
            return Err(self.fault("max block depth exceeded"));
        }
        self.open.push(Open { opener, in_else: false, variables });
        Ok(())
    }

    /// Keeps the template that has just ended. One of nothing but blanks can be there twice.
    fn complete(&mut self) -> Result<()> {
        match self.defined.get(&self.tree.name) {
            Some(true) if self.tree.full => {
                let name = literal::quote(&String::from_utf8_lossy(&self.tree.name));
                Err(self.fault(format!("template: multiple definition of template {name}")))
            }
            Some(true) => Ok(()),
            _ => {
                self.defined.insert(std::mem::take(&mut self.tree.name), self.tree.full);
                Ok(())
            }
        }
    }

    /// The name of a template, which is a text constant.
    fn name(&mut self, context: &str) -> Result<Vec<u8>> {
        let token = self.next_word();
        match token.kind {
            Kind::String | Kind::RawString => {
                literal::unquote(token.text).map_err(|fault| self.fault(fault))
            }
            _ => Err(self.unexpected(token, context)),
        }
    }

    fn expect_end(&mut self, context: &str) -> Result<()> {
        let token = self.next_word();
        match token.kind {
            Kind::RightDelim => Ok(()),
            _ => Err(self.unexpected(token, context)),
        }
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Token<'a> {
        self.pending.pop().unwrap_or_else(|| {
            let token = self.lexer.next();
            self.tree.line = token.line;
            token
        })
    }

    /// The next token that is no blank.
    pub(super) fn next_word(&mut self) -> Token<'a> {
        loop {
            let token = self.next();
            if token.kind != Kind::Space {
                return token;
            }
        }
    }

    /// Puts a token back, to be the next one.
    pub(super) fn back(&mut self, token: Token<'a>) {
        self.pending.push(token);
    }

    /// An error here.
    pub(super) fn fault(&self, text: impl AsRef<str>) -> String {
        format!("template: :{}: {}", self.tree.line, text.as_ref())
    }

    /// The error that a token is, or that it stands where it cannot.
    pub(super) fn unexpected(&self, token: Token<'_>, context: &str) -> String {
        if token.kind != Kind::Error {
            return self.fault(format!("unexpected {token} in {context}"));
        }
        let text = &self.lexer.fault;
        match self.tree.action.filter(|line| *line != token.line) {
            None => self.fault(text),
            Some(line) if text.ends_with(" action") => {
                self.fault(format!("{text} started at :{line}"))
            }
            Some(line) => self.fault(format!("{text} in action started at :{line}")),
        }
    }
}
