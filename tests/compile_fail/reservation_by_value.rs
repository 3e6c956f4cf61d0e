//! An assertion that took a reservation by value would end it.

fn main() {
    let reservation = portlease::reserve_port();
    portlease::assert_port_free(&reservation);
    portlease::assert_port_free(reservation);
}
