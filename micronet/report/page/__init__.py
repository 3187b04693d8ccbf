"""Reports: self-contained HTML pages with slices to scroll through, plots and tables; no network, below 3 MB."""
