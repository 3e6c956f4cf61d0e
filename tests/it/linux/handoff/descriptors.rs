//! The descriptor numbers under which a child inherits sockets.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use portlease::{Reservation, State, reserve_port};

use super::server;
use crate::support::helper::NAME;

/// A child that prints what is open at these descriptor numbers.
fn child(numbers: &[i32]) -> Command {
    let mut command = Command::new("readlink");
    command.args(numbers.iter().map(|fd| format!("/proc/self/fd/{fd}")));
    command
}

#[track_caller]
fn assert_child_has(mut command: Command, expected: &[&Reservation], what: &str) {
    let output = command.output().unwrap();
    let links = String::from_utf8(output.stdout).unwrap();
    let link = |p: &&Reservation| {
        let holders = portlease::who_holds(*p).unwrap();
        let listens = |holder: &&portlease::Holder| holder.state == State::Listen;
        let listener = holders.iter().find(listens).unwrap();
        format!("socket:[{}]", listener.inode)
    };
    let expected: Vec<String> = expected.iter().map(link).collect();
    assert_eq!(links.lines().collect::<Vec<_>>(), expected, "{what}");
}

fn assert_missing_program_is_an_error(p: &Reservation, fd: i32, then: impl FnOnce()) {
    let mut command = Command::new("/nonexistent/program");
    p.pass_to_fd(&mut command, fd).unwrap();
    then();
    if let Ok(mut child) = command.spawn() {
        panic!("descriptor {fd}: started, then {:?}", child.wait());
    }
}

/// Opens two files with consecutive descriptor numbers. Once both are closed, the next pipe gets
/// these numbers, because the third result occupies the free numbers below them.
fn next_two() -> (File, File, Vec<File>) {
    let open = || File::open("/dev/null").unwrap();
    let mut below = vec![open()];
    loop {
        let (last, next) = (below.pop().unwrap(), open());
        if last.as_raw_fd() + 1 == next.as_raw_fd() {
            return (last, next, below);
        }
        below.extend([last, next]);
    }
}

/// The helper process: no other thread opens descriptors meanwhile.
pub(crate) fn pass_descriptors() {
    let (a, b) = (reserve_port(), reserve_port());
    for first in 3..24 {
        let numbers = [first, first + 1];
        let mut command = child(&numbers);
        a.pass_to_fd(&mut command, numbers[0]).unwrap();
        b.pass_to_fd(&mut command, numbers[1]).unwrap();
        assert_child_has(command, &[&a, &b], &format!("{numbers:?}"));
        assert_missing_program_is_an_error(&a, first, || {});

        // The sockets of `pass_to` have the numbers 3 and 4.
        if first > 4 {
            for chosen_first in [true, false] {
                let c = reserve_port();
                let mut command = child(&[3, 4, first]);
                if chosen_first {
                    c.pass_to_fd(&mut command, first).unwrap();
                }
                a.pass_to(&mut command).unwrap();
                b.pass_to(&mut command).unwrap();
                if !chosen_first {
                    c.pass_to_fd(&mut command, first).unwrap();
                }
                assert_child_has(command, &[&a, &b, &c], &format!("3, 4, {first}"));
            }
        }
    }

    // Other code closes the descriptor after its number was chosen.
    let (first, second, _below) = next_two();
    assert_missing_program_is_an_error(&a, second.as_raw_fd(), || drop((first, second)));
    let (first, second, _below) = next_two();
    let numbers = [second.as_raw_fd(), 40];
    let mut command = child(&numbers);
    a.pass_to_fd(&mut command, numbers[0]).unwrap();
    drop((first, second));
    let pipe_gets_another = File::open("/dev/null").unwrap();
    b.pass_to_fd(&mut command, numbers[1]).unwrap();
    drop(pipe_gets_another);
    let fill = File::open("/dev/null").unwrap();
    assert_child_has(command, &[&a, &b], "closed meanwhile");
    drop(fill);

    // The number belongs to a pipe that was open before the call. That is not the pipe of `spawn`,
    // so the socket replaces it.
    let (reader, writer) = std::io::pipe().unwrap();
    let number = writer.as_raw_fd();
    let mut command = child(&[number]);
    a.pass_to_fd(&mut command, number).unwrap();
    assert_child_has(command, &[&a], "a pipe");
    drop((reader, writer));

    // Without its environment, the command is not recognized as the one that passes `a`. The number
    // is free in this process, or in use.
    for in_use in [false, true] {
        let mut command = child(&[number]);
        let file = File::open("/dev/null").unwrap();
        let number = match in_use {
            true => file.as_raw_fd(),
            false => number,
        };
        if !in_use {
            drop(file);
        }
        a.pass_to_fd(&mut command, number).unwrap();
        command.env_clear();
        b.pass_to_fd(&mut command, number).unwrap();
        let error = command.spawn().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
    }
    // The control: two commands pass different sockets as one number.
    let (mut one, mut other) = (child(&[number]), child(&[number]));
    a.pass_to_fd(&mut one, number).unwrap();
    b.pass_to_fd(&mut other, number).unwrap();
    assert_child_has(other, &[&b], "the second command");
    assert_child_has(one, &[&a], "the first command");
}

#[test]
fn a_chosen_number_replaces_neither_another_socket_nor_the_pipe_of_spawn() {
    let output = server().env(NAME, "passes-descriptors").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_number_that_cannot_be_given_is_an_error() {
    let (a, b) = (reserve_port(), reserve_port());
    let mut command = Command::new("true");
    let error = a.pass_to_fd(&mut command, i32::MAX).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is not below the limit of open files"),
        "{error}"
    );
    let error = a.pass_to_fd(&mut command, -1).unwrap_err();
    assert!(
        error.to_string().contains("descriptor -1 is negative"),
        "{error}"
    );
    a.pass_to_fd(&mut command, 4).unwrap();
    let error = b.pass_to_fd(&mut command, 4).unwrap_err();
    assert!(
        error.to_string().contains("another socket as descriptor 4"),
        "{error}"
    );
    // The second socket of `pass_to_wrapper` would get the number 4.
    b.pass_to_wrapper(&mut command).unwrap();
    let error = reserve_port().pass_to_wrapper(&mut command).unwrap_err();
    assert!(
        error.to_string().contains("another socket as descriptor 4"),
        "{error}"
    );
    assert!(command.status().unwrap().success());
}
