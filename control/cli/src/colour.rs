//! Colours, on a terminal that has them only.

use std::io::IsTerminal;

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Nothing.
    Plain,
    /// It is well.
    Green,
    /// It may be well.
    Yellow,
    /// It is not.
    Red,
}

/// `text` in a colour, if standard output is a terminal and nobody has asked for none (<https://no-color.org>).
pub fn paint(text: &str, colour: Colour) -> String {
    let variable = |name: &str| std::env::var_os(name);
    let wanted = variable("NO_COLOR").is_none_or(|value| value.is_empty());
    let has = variable("TERM").is_some_and(|terminal| terminal != "dumb");
    if std::io::stdout().is_terminal() && wanted && has { painted(text, colour) } else { text.to_owned() }
}

/// ECMA-48, SGR.
fn painted(text: &str, colour: Colour) -> String {
    let number = match colour {
        Colour::Plain => return text.to_owned(),
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
    };
    format!("\x1b[{number}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_end_where_the_text_does() {
        assert_eq!(painted("x", Colour::Plain), "x");
        assert_eq!(painted("x", Colour::Red), "\x1b[31mx\x1b[0m");
    }
}
