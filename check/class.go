package check

// Class is one way in which a store can be out of order.
type Class struct {
	Code     Code
	Severity Severity
	// Title says what it is, Consequence what follows from that, Repair what a repair
	// does about it; "": nothing can be done from here.
	Title, Consequence, Repair string
}
