"""What runs before and below the guest's kernel: reset ROM, built-in SBI, HTIF, and the order of a boot."""
