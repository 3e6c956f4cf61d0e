//! Windows: a command ends with a code of 32 bits, such as 0xC000013A after Ctrl-C.

use std::process::ExitStatus;

use crate::exit;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(u32),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        let code = status.code().map(i32::cast_unsigned);
        End::Code(code.unwrap_or(exit::RUN_FAILED.into()))
    }
}

impl End {
    pub(crate) fn of_code(code: u8) -> End {
        End::Code(code.into())
    }

    /// Returns the code if it fits into a byte. Otherwise ends this process with the code.
    pub(crate) fn exit(self) -> u8 {
        let End::Code(code) = self;
        match u8::try_from(code) {
            Ok(code) => code,
            Err(_) => std::process::exit(code.cast_signed()),
        }
    }
}
