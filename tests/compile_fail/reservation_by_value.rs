//! By value, an assertion would end the reservation that it is about.

fn main() {
    let reservation = portlease::reserve_port();
    portlease::assert_port_free(&reservation);
    portlease::assert_port_free(reservation);
}
