//! A domain's XML as a generic tree, and changes to its text.
//!
//! Nothing is written out anew: changes are pieces of text at places that the tree gives, so that every element, comment,
//! prefix and space that this program does not know stays as it was. Sizes and depth are limited and document types refused,
//! which is where entities would be declared.

use std::ops::Range;

use roxmltree::{Document, Node, ParsingOptions};

/// Longest document that is read, in bytes. KubeVirt's have some tens of kilobytes.
pub const MAX_DOMAIN_BYTES: usize = 1024 * 1024;

/// Deepest nesting of elements; libvirt's documents have about ten levels. The parser recurses.
pub const MAX_DEPTH: usize = 64;

/// Most nodes: elements, texts, comments.
const MAX_NODES: u32 = 100_000;

/// Most attributes of an element, libvirt's have about ten, and most declarations of namespaces. The parser compares each
/// with all before it.
const MAX_ATTRIBUTES: usize = 256;
const MAX_NAMESPACES: usize = 64;

/// Why a document is no domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Too long.
    #[error("the domain has {0} bytes of XML; {MAX_DOMAIN_BYTES} are read")]
    TooLong(usize),
    /// Too deep.
    #[error("the domain's elements are nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Too many attributes.
    #[error(
        "an element of the domain has more than {MAX_ATTRIBUTES} attributes, or all together declare more than {MAX_NAMESPACES} namespaces"
    )]
    TooWide,
    /// No text.
    #[error("the domain is not UTF-8")]
    NotText,
    /// No XML.
    #[error("the domain cannot be read: {0}")]
    Xml(String),
    /// Another root element.
    #[error("the document's root is <{0}>, not <domain>")]
    NoDomain(String),
    /// An element that must be there once.
    #[error("the domain has {count} elements <{name}>; it must have {expected}")]
    Count {
        /// Its name.
        name: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        expected: &'static str,
    },
    /// The result is not what was meant, which is a fault of this program.
    #[error("the edited domain is not as it should be ({0}); this is a bug, please report it")]
    Unsound(String),
}

/// Reads a domain.
///
/// # Errors
/// Any [`DomainError`] but the last two.
pub fn parse(xml: &[u8]) -> Result<Document<'_>, DomainError> {
    if xml.len() > MAX_DOMAIN_BYTES {
        return Err(DomainError::TooLong(xml.len()));
    }
    let text = std::str::from_utf8(xml).map_err(|_| DomainError::NotText)?;
    let extent = Extent::of(text);
    if extent.depth > MAX_DEPTH {
        return Err(DomainError::TooDeep);
    }
    if extent.attributes > MAX_ATTRIBUTES || extent.namespaces > MAX_NAMESPACES {
        return Err(DomainError::TooWide);
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| DomainError::Xml(error.to_string()))?;
    let root = document.root_element();
    if !is(root, "domain") {
        return Err(DomainError::NoDomain(root.tag_name().name().chars().take(100).collect()));
    }
    Ok(document)
}

/// The elements of a name directly below one, without a namespace as all of libvirt's own.
pub fn children<'a, 'input>(
    parent: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input> {
    parent.children().filter(move |node| is(*node, name))
}

/// The only element of a name directly below one, if there is one.
///
/// # Errors
/// There are several.
pub fn child<'a, 'input>(
    parent: Node<'a, 'input>,
    name: &'static str,
) -> Result<Option<Node<'a, 'input>>, DomainError> {
    let mut found = children(parent, name);
    match (found.next(), found.count()) {
        (first, 0) => Ok(first),
        (_, more) => Err(DomainError::Count { name, count: more + 1, expected: "one at most" }),
    }
}

/// Whether a node is an element of this name, without a namespace.
fn is(node: Node, name: &str) -> bool {
    // roxmltree's own question passes over namespaces.
    node.is_element() && node.tag_name().name() == name && node.tag_name().namespace().is_none()
}

/// Changes to a document's text, made all at once.
#[derive(Debug, Default)]
pub struct Changes(Vec<(Range<usize>, String)>);

impl Changes {
    /// Puts text behind the last child of an element.
    pub fn append(&mut self, parent: Node, text: &str) {
        let range = parent.range();
        let source = source(parent);
        if source.ends_with("/>") {
            let closing = format!(">{text}</{}>", qualified_name(source));
            self.0.push((range.end - 2..range.end, closing));
        } else {
            let at = range.start + source.rfind("</").unwrap_or(source.len());
            self.0.push((at..at, text.to_owned()));
        }
    }

    /// Puts text in front of an element.
    pub fn insert_before(&mut self, element: Node, text: &str) {
        let at = element.range().start;
        self.0.push((at..at, text.to_owned()));
    }

    /// Puts text in an element's place.
    pub fn replace(&mut self, element: Node, text: &str) {
        self.0.push((element.range(), text.to_owned()));
    }

    /// Adds an attribute that the element does not have.
    pub fn add_attribute(&mut self, element: Node, name: &str, value: &str) {
        let at = element.range().start + 1 + qualified_name(source(element)).len();
        self.0.push((at..at, attribute(name, value)));
    }

    /// The text with all changes; `None` if two of them are at the same text.
    pub fn apply(mut self, text: &str) -> Option<String> {
        self.0.sort_by_key(|(range, _)| (range.start, range.end));
        let mut result = String::with_capacity(text.len() + self.0.iter().map(|(_, new)| new.len()).sum::<usize>());
        let mut done = 0;
        for (range, new) in &self.0 {
            result.push_str(text.get(done..range.start)?);
            result.push_str(new);
            done = range.end;
        }
        result.push_str(text.get(done..)?);
        Some(result)
    }
}

/// ` name="value"`, with the value escaped. It must have no characters that XML does not know.
pub fn attribute(name: &str, value: &str) -> String {
    let mut text = format!(" {name}=\"");
    for character in value.chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

/// The text of an element.
pub fn source<'a>(element: Node<'a, '_>) -> &'a str {
    element.document().input_text().get(element.range()).unwrap_or_default()
}

/// The name in an element's start tag, with its prefix.
pub(crate) fn qualified_name(source: &str) -> &str {
    let name = source.strip_prefix('<').unwrap_or_default();
    name.split(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>').next().unwrap_or_default()
}

/// How large a document is for a parser, told without recursion. As far as the text is well-formed this is no less than it
/// is; a parser gets no further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    /// How deep elements are nested.
    depth: usize,
    /// The most attributes of an element.
    attributes: usize,
    /// Attributes that declare namespaces.
    namespaces: usize,
}

impl Extent {
    fn of(text: &str) -> Self {
        let (mut depth, mut extent) = (0_usize, Self::default());
        let mut rest = text;
        while let Some(at) = rest.find('<') {
            rest = rest.get(at..).unwrap_or_default();
            let skipped =
                [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")].iter().find(|(begin, _)| rest.starts_with(begin));
            let end = if let Some((begin, end)) = skipped {
                let inside = rest.get(begin.len()..).unwrap_or_default();
                inside.find(end).map(|at| begin.len() + at + end.len())
            } else if rest.starts_with("</") {
                depth = depth.saturating_sub(1);
                Some(2)
            } else {
                let tag = Tag::read(rest);
                extent.attributes = extent.attributes.max(tag.attributes);
                if !tag.end.is_some_and(|end| rest.get(..end).unwrap_or_default().ends_with("/>")) {
                    depth += 1;
                    extent.depth = extent.depth.max(depth);
                }
                extent.namespaces +=
                    rest.get(..tag.end.unwrap_or(rest.len())).unwrap_or_default().matches("xmlns").count();
                tag.end
            };
            let Some(end) = end else { break };
            rest = rest.get(end..).unwrap_or_default();
        }
        extent
    }
}

/// The tag that a text begins with.
struct Tag {
    /// Behind the first `>` outside of quotes.
    end: Option<usize>,
    /// Quoted values.
    attributes: usize,
}

impl Tag {
    fn read(text: &str) -> Self {
        let (mut quote, mut attributes) = (None, 0);
        for (at, byte) in text.bytes().enumerate() {
            match (quote, byte) {
                (None, b'>') => return Self { end: Some(at + 1), attributes },
                (None, b'"' | b'\'') => {
                    attributes += 1;
                    quote = Some(byte);
                }
                (Some(open), byte) if open == byte => quote = None,
                _ => {}
            }
        }
        Self { end: None, attributes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_leave_everything_else_as_it_was() {
        let text = "<?xml version='1.0'?>\n<!-- <a> --><domain xmlns:q='u'  type = 'kvm'><q:x a=\"/>\"/><devices /><cpu><q:c/></cpu ></domain>\n<!-- end -->";
        let document = parse(text.as_bytes()).unwrap();
        let root = document.root_element();
        let mut changes = Changes::default();
        changes.append(child(root, "devices").unwrap().unwrap(), "<a/>");
        let cpu = child(root, "cpu").unwrap().unwrap();
        changes.append(cpu, "<b/>");
        changes.add_attribute(cpu, "m", "<&\">");
        let element = cpu.first_element_child().unwrap();
        changes.add_attribute(element, "k", "v");
        changes.insert_before(cpu, "<z/>");
        let result = changes.apply(text).unwrap();
        let expected = text
            .replace("<devices />", "<devices ><a/></devices>")
            .replace("<cpu>", "<z/><cpu m=\"&lt;&amp;&quot;&gt;\">")
            .replace("<q:c/>", "<q:c k=\"v\"/><b/>");
        assert_eq!(result, expected);
        parse(result.as_bytes()).unwrap();
    }

    #[test]
    fn changes_at_the_same_text_are_not_made() {
        let text = "<domain><devices/></domain>";
        let document = parse(text.as_bytes()).unwrap();
        let devices = document.root_element().first_element_child().unwrap();
        let mut changes = Changes::default();
        changes.replace(devices, "<a/>");
        changes.append(devices, "<b/>");
        assert_eq!(changes.apply(text), None);
    }

    #[test]
    fn what_is_no_domain_is_an_error() {
        let error = |text: &str| parse(text.as_bytes()).map(|_| ()).expect_err(text.get(..99).unwrap_or(text));
        let fit = "x".repeat(MAX_DOMAIN_BYTES);
        assert!(matches!(error(&fit), DomainError::Xml(_)));
        assert_eq!(error(&(fit + "x")), DomainError::TooLong(MAX_DOMAIN_BYTES + 1));
        assert_eq!(parse(b"<domain>\xff</domain>").map(|_| ()), Err(DomainError::NotText));
        assert_eq!(error("<network/>"), DomainError::NoDomain("network".to_owned()));
        assert_eq!(error("<domain xmlns='other'/>"), DomainError::NoDomain("domain".to_owned()));
        for text in
            ["", "<domain>", "<domain></domian>", "<domain a=1/>", "<domain/><domain/>", "\0", "<domain>&x;</domain>"]
        {
            assert!(matches!(error(text), DomainError::Xml(_)), "{text}");
        }
    }

    #[test]
    fn bombs_do_not_go_off() {
        let entities: String =
            (1..9).map(|n| format!("<!ENTITY e{n} '{}'>", format!("&e{};", n - 1).repeat(10))).collect();
        let laughs = format!("<!DOCTYPE domain [<!ENTITY e0 'ha'>{entities}]><domain>&e8;</domain>");
        assert!(matches!(parse(laughs.as_bytes()), Err(DomainError::Xml(_))));
        let file = "<!DOCTYPE domain [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><domain>&f;</domain>";
        assert!(matches!(parse(file.as_bytes()), Err(DomainError::Xml(_))));
        let many = format!("<domain>{}</domain>", "<a/>".repeat(200_000));
        assert!(matches!(parse(many.as_bytes()), Err(DomainError::Xml(_))));
        let nested = |levels: usize, inside: &str| {
            format!("{}{inside}", "<domain>".repeat(levels)) + &"</domain>".repeat(levels)
        };
        parse(nested(MAX_DEPTH, "<!-- <a> <a> --><![CDATA[<a>]]><?p <a>?>").as_bytes()).unwrap();
        assert!(matches!(parse(nested(MAX_DEPTH + 1, "").as_bytes()), Err(DomainError::TooDeep)));
        assert!(matches!(parse(nested(60_000, "").as_bytes()), Err(DomainError::TooDeep)));
        // Before there was a limit, the parser took minutes for these.
        let attributes = |count: usize| (0..count).map(|number| format!(" a{number}='>'")).collect::<String>();
        parse(format!("<domain{}/>", attributes(MAX_ATTRIBUTES)).as_bytes()).unwrap();
        let wide = format!("<domain><a{}/></domain>", attributes(80_000));
        assert!(matches!(parse(wide.as_bytes()), Err(DomainError::TooWide)));
        let namespaces: String = (0..10_000).map(|number| format!("<a xmlns:n{number}='{number}'/>")).collect();
        assert!(matches!(parse(format!("<domain>{namespaces}</domain>").as_bytes()), Err(DomainError::TooWide)));
        // Nothing that only looks like the end of an element makes room for more.
        for ends in ["<!--</a></a>-->", "<![CDATA[</a></a>]]>", "<?p </a></a>?>", "<b c='/>' d=\"</a>\">"] {
            let text = format!("<domain>{}", format!("<a>{ends}").repeat(10_000));
            assert!(parse(text.as_bytes()).is_err(), "{ends}");
        }
    }
}
