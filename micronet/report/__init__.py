"""What people look at: previews, pages, figures."""
