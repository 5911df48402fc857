//! From text to selectors: a scanner that knows whether a value may come next, and a parser one token deep.

use super::{Selector, Test, mistake, regex};
use crate::Result;

/// A mistake: at which byte, and what.
type Mistake = (usize, String);

/// The selectors of one filter; an empty filter has none and holds for everything.
pub(super) fn selectors(input: &str) -> Result<Vec<Selector>> {
    if input.is_empty() {
        return Ok(Vec::new());
    }
    Scanner::new(input)
        .selectors()
        .map_err(|(position, what)| mistake(input, position, &what))
}

#[derive(PartialEq)]
enum Token<'a> {
    End,
    /// Raw, with its quotes.
    Quoted(&'a str),
    Field(&'a str),
    Value(&'a str),
    Separator(char),
    Operator(&'a str),
    Other,
}

struct Scanner<'a> {
    input: &'a str,
    at: usize,
    /// Whether an operator came last, so that a bare word is a value.
    value_next: bool,
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    fn new(input: &'a str) -> Self {
        Self {
            input,
            at: 0,
            value_next: false,
        }
    }

    fn peek(&self) -> Option<char> {
        self.input[self.at..].chars().next()
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        let rest = &self.input[self.at..];
        self.at += rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    }

    /// The next token and where it begins.
    fn scan(&mut self) -> Result<(usize, Token<'a>), Mistake> {
        self.skip_while(char::is_whitespace);
        let start = self.at;
        let Some(c) = self.peek() else {
            return Ok((start, Token::End));
        };
        self.at += c.len_utf8();
        let token = match c {
            '\0' => return Err((start, "unexpected null".into())),
            '/' | '|' | '"' => {
                self.quoted(start, c)?;
                Token::Quoted(&self.input[start..self.at])
            }
            ',' | '.' => {
                self.value_next = false;
                Token::Separator(c)
            }
            '=' | '!' | '~' => {
                self.skip_while(|c| matches!(c, '=' | '!' | '~'));
                self.value_next = true;
                Token::Operator(&self.input[start..self.at])
            }
            _ if self.value_next => {
                self.skip_while(|c| c != ',' && !c.is_whitespace() && !c.is_control());
                self.value_next = false;
                Token::Value(&self.input[start..self.at])
            }
            c if is_field_char(c) => {
                self.skip_while(is_field_char);
                Token::Field(&self.input[start..self.at])
            }
            _ => Token::Other,
        };
        Ok((start, token))
    }

    /// Moves behind the closing quote.
    fn quoted(&mut self, start: usize, quote: char) -> Result<(), Mistake> {
        let mut escaped = false;
        for (i, c) in self.input[self.at..].char_indices() {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    self.at += i + c.len_utf8();
                    return Ok(());
                }
                _ => {}
            }
        }
        Err((start, "quoted literal not terminated".into()))
    }

    fn selectors(mut self) -> Result<Vec<Selector>, Mistake> {
        let mut selectors = vec![self.selector()?];
        loop {
            match self.peek() {
                None => return Ok(selectors),
                Some(',') => {
                    self.scan()?;
                    selectors.push(self.selector()?);
                }
                Some(other) => return Err((self.at, format!("unexpected input: {other}"))),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, Mistake> {
        let path = self.path()?;
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector {
                path,
                test: Test::Present,
            });
        }
        let test = match self.scan()? {
            (_, Token::Operator("==")) => Test::Equal(self.value(false)?.1),
            (_, Token::Operator("!=")) => Test::NotEqual(self.value(false)?.1),
            (_, Token::Operator("~=")) => {
                let (start, pattern) = self.value(true)?;
                Test::Matches(regex(&pattern).map_err(|what| (start, what))?)
            }
            (start, Token::Operator(other)) => {
                return Err((start, format!("unsupported operator {other:?}")));
            }
            (start, _) => {
                return Err((start, r#"expected an operator ("=="|"!="|"~=")"#.into()));
            }
        };
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>, Mistake> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.scan()?;
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, Mistake> {
        match self.scan()? {
            (_, Token::Field(field)) => Ok(field.to_owned()),
            (start, Token::Quoted(quoted)) => unquote(start, quoted, false),
            (start, _) => Err((start, "expected field or quoted".into())),
        }
    }

    fn value(&mut self, pattern: bool) -> Result<(usize, String), Mistake> {
        match self.scan()? {
            (start, Token::Value(value)) => Ok((start, value.to_owned())),
            (start, Token::Quoted(quoted)) => Ok((start, unquote(start, quoted, pattern)?)),
            (start, _) => Err((start, "expected value or quoted".into())),
        }
    }
}

fn is_field_char(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// What a quoted literal says. `/` and `|` quote patterns only, so that `labels.a/b` is noticed as the mistake it mostly is.
fn unquote(start: usize, quoted: &str, pattern: bool) -> Result<String, Mistake> {
    let quote = quoted.chars().next().unwrap_or('"');
    if quote != '"' && !pattern {
        return Err((start, "invalid quote encountered".into()));
    }
    let inner = &quoted[1..quoted.len() - 1];
    if !inner.contains('\\') {
        return Ok(inner.to_owned());
    }
    let illegal = |what: &str| (start, format!("unquoting failed: {what}"));
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.next().unwrap_or_default();
        let mut number = |first: &str, digits: usize, radix: u32| {
            let mut text = first.to_owned();
            text.extend(rest.by_ref().take(digits));
            let whole = text.len() == digits + first.len();
            let digits_only = text.chars().all(|c| c.is_digit(radix));
            (whole && digits_only)
                .then(|| u32::from_str_radix(&text, radix).ok())
                .flatten()
                .ok_or_else(|| illegal("illegal numeric escape sequence"))
        };
        match escape {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            '\\' => bytes.push(b'\\'),
            c if c == quote => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            '0'..='7' => {
                let value = number(&escape.to_string(), 2, 8)?;
                bytes.push(u8::try_from(value).map_err(|_| illegal("octal escape is above \\377"))?);
            }
            // Two hexadecimal digits always fit.
            'x' => bytes.push(number("", 2, 16)? as u8),
            'u' | 'U' => {
                let value = number("", if escape == 'u' { 4 } else { 8 }, 16)?;
                let c = char::from_u32(value).ok_or_else(|| illegal("no such character"))?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(illegal("illegal escape sequence")),
        }
    }
    String::from_utf8(bytes).map_err(|_| illegal("the text is not UTF-8"))
}
