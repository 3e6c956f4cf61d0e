//! Code that must not compile.

use crate::support::{capability, need, skip, test_name};

#[test]
fn a_signed_number_and_a_reservation_by_value_name_no_port() {
    need!(capability::native());
    // trybuild builds the cases beside this binary.
    let binary = std::env::current_exe().unwrap();
    if let Err(e) = tempfile::tempfile_in(binary.parent().unwrap()) {
        return skip(
            test_name!(),
            &format!("the build folder cannot be written: {e}"),
        );
    }
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
