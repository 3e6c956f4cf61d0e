//! The JUnit report of `check`, for CI servers: one test case per port.

use std::io;
use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::BytesText;

use crate::failure::Failure;
use crate::finding::Finding;
use crate::output::report;

const SUITE: &str = "portlease check";

pub(crate) fn write_report(path: &Path, findings: &[Finding]) -> Result<(), Failure> {
    let write = |text| {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, text)
    };
    let written = document(findings).and_then(write);
    written.map_err(|e| Failure::system(format_args!("write {}", path.display()), &e))
}

fn document(findings: &[Finding]) -> io::Result<Vec<u8>> {
    let count = |answer| {
        findings
            .iter()
            .filter(|finding| finding.answer() == answer)
            .count()
            .to_string()
    };
    let (tests, failures, errors) = (findings.len().to_string(), count(Some(false)), count(None));
    let counts = [
        ("name", SUITE),
        ("tests", &tests),
        ("failures", &failures),
        ("errors", &errors),
    ];
    let mut writer = Writer::new_with_indent(
        b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_vec(),
        b' ',
        2,
    );
    writer
        .create_element("testsuites")
        .with_attributes(counts)
        .write_inner_content(|writer| {
            writer
                .create_element("testsuite")
                .with_attributes(counts)
                .write_inner_content(|writer| {
                    findings
                        .iter()
                        .try_for_each(|finding| case(writer, finding))
                })?;
            Ok(())
        })?;
    let mut text = writer.into_inner();
    text.push(b'\n');
    Ok(text)
}

fn case(writer: &mut Writer<Vec<u8>>, finding: &Finding) -> io::Result<()> {
    let name = xml_text(&finding.endpoint.to_string());
    let case = writer
        .create_element("testcase")
        .with_attributes([("classname", SUITE), ("name", name.as_str())]);
    let Some(problem) = &finding.problem else {
        case.write_empty()?;
        return Ok(());
    };
    let kind = if finding.answer().is_some() {
        "failure"
    } else {
        "error"
    };
    case.write_inner_content(|writer| {
        let element = writer
            .create_element(kind)
            .with_attribute(("message", xml_text(&problem.headline()).as_str()));
        let text = xml_text(&report::full(problem, finding.asked));
        element.write_text_content(BytesText::new(&text))?;
        Ok(())
    })?;
    Ok(())
}

/// Escapes the characters that no XML 1.0 document may contain, not even as a character reference.
fn xml_text(text: &str) -> String {
    let is_allowed = |c: char| match c {
        '\t' | '\n' | '\r' => true,
        _ => c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'),
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_allowed(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}
