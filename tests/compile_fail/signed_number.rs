//! A variable that is inferred as `i32` is not a port number.

fn main() {
    let port = 60315;
    let _next: i32 = port + 1;
    portlease::assert_port_free(port);
}
