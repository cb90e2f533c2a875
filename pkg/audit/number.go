package audit

import "fmt"

// number copies the number at pos as PostgreSQL's numeric prints it.
func (c *Canonicalizer) number() error {
	start := c.pos
	n, err := scanNumber(c.src[start:])
	if err != "" {
		return c.fail(err)
	}
	c.pos += n.end
	text := c.src[start:c.pos]
	if n.exponent == 0 {
		if n.zero && n.negative {
			text = text[1:]
		}
		c.dst = append(c.dst, text[:len(text)-(n.end-n.mantissa)]...)
		return nil
	}
	before := len(c.dst)
	c.dst = n.appendPlain(c.dst, text)
	if c.expanded += max(0, len(c.dst)-before-len(text)); c.expanded > maxJSONExpansion {
		return c.fail("numbers with exponents make it too long")
	}
	return nil
}

// number is a scanned number: offsets into its text.
type number struct {
	negative bool
	zero     bool // every digit is 0
	point    int  // end of the digits before the point
	mantissa int  // end of the digits, before the exponent
	end      int
	exponent int
}

// scanNumber reads JSON's number grammar at the beginning of b; reason is set when it does not match or goes past a limit.
func scanNumber(b []byte) (n number, reason string) {
	const malformed = "malformed number"
	i := 0
	if b[0] == '-' {
		n.negative = true
		i++
	}
	n.zero = true
	digits := func() bool {
		first := i
		for ; i < len(b) && isDigit(b[i]); i++ {
			n.zero = n.zero && b[i] == '0'
		}
		return i > first
	}
	first := i
	if !digits() || (b[first] == '0' && i-first > 1) {
		return n, malformed
	}
	n.point = i
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return n, malformed
		}
	}
	n.mantissa = i
	if i < len(b) && b[i]|0x20 == 'e' {
		if i = n.scanExponent(b, i+1); i < 0 {
			return n, malformed
		}
	}
	n.end = i
	switch {
	case i < len(b) && isWordByte(b[i]):
		return n, malformed
	case n.end > MaxJSONNumber:
		return n, fmt.Sprintf("number of more than %d characters", MaxJSONNumber)
	case n.exponent > MaxJSONExponent || n.exponent < -MaxJSONExponent:
		return n, fmt.Sprintf("exponent beyond %d", MaxJSONExponent)
	}
	return n, ""
}

// scanExponent reads the exponent's sign and digits from b[i:] and returns its end, -1 when there are no digits.
func (n *number) scanExponent(b []byte, i int) int {
	negative := false
	if i < len(b) && (b[i] == '+' || b[i] == '-') {
		negative = b[i] == '-'
		i++
	}
	first := i
	for ; i < len(b) && isDigit(b[i]); i++ {
		n.exponent = min(n.exponent*10+int(b[i]-'0'), 1<<20)
	}
	if i == first {
		return -1
	}
	if negative {
		n.exponent = -n.exponent
	}
	return i
}

// appendPlain writes the number without its exponent: scale = max(0, digits after the point − exponent), as numeric_in has it.
func (n *number) appendPlain(dst, text []byte) []byte {
	first := 0
	if n.negative {
		first = 1
		if !n.zero {
			dst = append(dst, '-')
		}
	}
	whole, frac := text[first:n.point], text[n.point:n.mantissa]
	if len(frac) > 0 {
		frac = frac[1:]
	}
	scale := max(0, len(frac)-n.exponent)
	point := len(whole) + n.exponent // the decimal point's place among the digits whole||frac
	digit := func(i int) byte {
		switch {
		case i < 0 || i >= len(whole)+len(frac):
			return '0'
		case i < len(whole):
			return whole[i]
		}
		return frac[i-len(whole)]
	}
	i := 0
	for i < point-1 && digit(i) == '0' { // leading zeros
		i++
	}
	if point <= 0 {
		dst = append(dst, '0')
	}
	for ; i < point; i++ {
		dst = append(dst, digit(i))
	}
	if scale > 0 {
		dst = append(dst, '.')
		for i := point; i < point+scale; i++ {
			dst = append(dst, digit(i))
		}
	}
	return dst
}
