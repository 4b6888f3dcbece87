//! Paragraphs of `Name: value` fields with continuation lines (deb822(5)), as in `Release`, `*.sources` and `control`.
//!
//! For the large `Packages` files see [`super::packages`], which keeps only what it needs.

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as written; names compare without case.
    pub name: &'a str,
    /// The value on the name's own line, trimmed.
    pub value: &'a str,
    /// The continuation lines, trimmed; comment lines are left out.
    pub lines: Vec<&'a str>,
    /// The line of the name, from 1.
    pub line: usize,
}

/// One paragraph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paragraph<'a> {
    /// The fields in their order.
    pub fields: Vec<Field<'a>>,
}

/// A text that is not deb822.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct Deb822Error {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub cause: String,
}

impl<'a> Paragraph<'a> {
    /// Returns the field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field<'a>> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// Returns the first line of the field called `name`.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.field(name).map(|field| field.value)
    }

    /// Returns the words of the field called `name`, over all its lines.
    pub fn words(&self, name: &str) -> Vec<&'a str> {
        let Some(field) = self.field(name) else { return Vec::new() };
        std::iter::once(field.value).chain(field.lines.iter().copied()).flat_map(str::split_whitespace).collect()
    }
}

/// Splits `text` in paragraphs. Lines that start with `#` are comments.
///
/// # Errors
/// A line that is neither a field nor a continuation, or a field that a paragraph has twice.
pub fn parse(text: &str) -> Result<Vec<Paragraph<'_>>, Deb822Error> {
    let mut paragraphs = Vec::new();
    let mut current = Paragraph::default();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            if !current.fields.is_empty() {
                paragraphs.push(std::mem::take(&mut current));
            }
        } else if line.starts_with([' ', '\t']) {
            let cause = || Deb822Error { line: number, cause: "a continuation line before any field".to_owned() };
            current.fields.last_mut().ok_or_else(cause)?.lines.push(line.trim());
        } else {
            let field = parse_field(line, number)?;
            if current.field(field.name).is_some() {
                return Err(Deb822Error { line: number, cause: format!("field {} stands twice", field.name) });
            }
            current.fields.push(field);
        }
    }
    if !current.fields.is_empty() {
        paragraphs.push(current);
    }
    Ok(paragraphs)
}

fn parse_field(line: &str, number: usize) -> Result<Field<'_>, Deb822Error> {
    let valid = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    match line.split_once(':') {
        Some((name, value)) if valid(name) => Ok(Field { name, value: value.trim(), lines: Vec::new(), line: number }),
        _ => {
            let shown: String = line.chars().take(60).collect();
            Err(Deb822Error { line: number, cause: format!("expected `Name: value`, found {shown:?}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_continue_and_paragraphs_end() {
        let text = "# comment\nA: 1\nB:\n x y\n# in between\n\tz\n\n\nC: 2\n";
        let paragraphs = parse(text).unwrap();
        assert_eq!(paragraphs.len(), 2);
        assert_eq!(paragraphs[0].value("a"), Some("1"));
        assert_eq!(paragraphs[0].words("B"), ["x", "y", "z"]);
        assert_eq!(paragraphs[1].field("C").unwrap().line, 9);
    }

    #[test]
    fn malformed_lines_are_named() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error(" x\n"), "line 1: a continuation line before any field");
        assert_eq!(error("A: 1\nno colon\n"), "line 2: expected `Name: value`, found \"no colon\"");
        assert_eq!(error("A: 1\na: 2\n"), "line 2: field a stands twice");
        assert_eq!(error(": 1\n"), "line 1: expected `Name: value`, found \": 1\"");
    }
}
